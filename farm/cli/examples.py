"""Examples of every command, shown below the options in its help and in docs/cli.md."""

from __future__ import annotations

from collections.abc import Mapping

import typer

#: Command → lines that run as they are, with ids, names and files of one's own.
EXAMPLES: Mapping[str, tuple[str, ...]] = {
    "": ("farm up", 'farm render "a red fox in fresh snow"', "farm jobs"),
    "up": ("farm up", "farm up --port 9000 --workers 2 --data-dir /var/lib/srpo-farm", "farm up --host 0.0.0.0"),
    "api": ("FARM_REDIS_URL=redis://redis:6379 farm api --host 0.0.0.0", "farm api --port 8001 --data-dir .farm"),
    "worker": ("FARM_REDIS_URL=redis://redis:6379 farm worker", "farm worker --webhooks --data-dir .farm"),
    "demo": ("farm demo", "farm demo --out images"),
    "render": (
        'farm render "a red fox in fresh snow"',
        'farm render "the same as a watercolour" --image fox.jpeg --strength 0.6',
        'farm render "give the fox a blue scarf" --model kontext --image fox.jpeg',
        'farm render "they meet" --model kontext --image fox.jpeg --image owl.png',
        'farm render "a red fox" --seeds 1-8 --guidance 3,4.5 --sheet',
        "farm render --from prompts.jsonl --out foxes",
    ),
    "models": ("farm models", "farm models --json"),
    "top": ("farm top",),
    "usage": ("farm usage", "farm usage --since 90d --csv"),
    "pause": ("farm pause", "farm pause --model kontext", "farm pause --caller bob"),
    "resume": ("farm resume", "farm resume --model kontext", "farm resume --caller bob"),
    "doctor": ("farm doctor", "farm doctor --digests", "farm doctor --json"),
    "simulate": (
        "farm simulate --gpus 8 --load 0.8 --price-per-gpu-hour 2.5",
        "farm simulate --gpus 40 --rate 6 --size square_hd=3 --size 512x512=1",
    ),
    "backup": ("farm backup backups/monday",),
    "restore": ("farm restore backups/monday --data-dir .farm",),
    "jobs": ("farm jobs", "farm jobs show 0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"),
    "jobs list": (
        "farm jobs list --status processing",
        "farm jobs list --caller alice --since 1d",
        "farm jobs list --code render_timeout --model srpo --since 2h --limit 500 --json",
    ),
    "jobs show": ("farm jobs show 0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11",),
    "jobs cancel": ("farm jobs cancel 0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11",),
    "jobs retry": (
        "farm jobs retry 0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11",
        "farm jobs retry --failed --code storage_unavailable --since 2h",
    ),
    "jobs delete": ("farm jobs delete 0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11",),
    "workers": ("farm workers", "farm workers drain gpu1-4711"),
    "workers list": ("farm workers list",),
    "workers drain": ("farm workers drain gpu1-4711",),
    "webhooks": ("farm webhooks", "farm webhooks test https://you.example/hook"),
    "webhooks list": ("farm webhooks list -n 100", "farm webhooks list --failed --receiver https://you.example"),
    "webhooks show": ("farm webhooks show 0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11-3",),
    "webhooks redeliver": (
        "farm webhooks redeliver 0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11-3",
        "farm webhooks redeliver --all --receiver https://you.example --since 1d",
    ),
    "webhooks test": ("farm webhooks test https://you.example/hook",),
    "webhooks secret": ("farm webhooks secret",),
    "keys": ("farm keys create ann", "farm keys"),
    "keys create": ("farm keys create ann --rate 60 --images-per-day 1000", "farm keys create root --admin"),
    "keys list": ("farm keys list",),
    "keys limit": ("farm keys limit ann --rate 120",),
    "keys revoke": ("farm keys revoke ann",),
    "storage": ("farm storage adopt",),
    "storage adopt": ("FARM_STORAGE_URL=s3://images/farm farm storage adopt",),
    "weights": ("farm weights convert", "farm weights verify"),
    "weights calibrate": (
        "farm weights calibrate",
        "farm weights calibrate --images 24 --grid levels.png --out masks.json",
    ),
    "weights convert": (
        "farm weights convert",
        "farm weights convert srpo.safetensors --to fp8 --out srpo-fp8.safetensors",
    ),
    "weights verify": ("farm weights verify", "farm weights verify srpo-fp8.safetensors"),
}


def add_to(app: typer.Typer, prefix: str = "") -> None:
    """Have the help of the app's commands, and of those below, end with their examples."""
    for command in app.registered_commands:
        command.epilog = below(f"{prefix}{command.name or getattr(command.callback, '__name__', '')}")
    for group in app.registered_groups:
        group.epilog = below(f"{prefix}{group.name}")
        if group.typer_instance:
            add_to(group.typer_instance, f"{prefix}{group.name} ")


def below(name: str) -> str | None:
    """Return the lines below the options of a command. The backspace keeps them as they are."""
    if name not in EXAMPLES:
        return None
    return "\n".join(["\b", "Examples:", *(f"  {line}" for line in EXAMPLES[name])])
