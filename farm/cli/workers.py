"""`farm workers`, `farm pause`, `farm resume` and `farm models`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from farm.cli.client import Client, escaped
from farm.cli.terminal import say_json, show_table
from farm.printable import say
from farm.settings import load

OfModel = Annotated[str | None, typer.Option("--model", help="Only the jobs of this model, by any of its ids.")]
OfPriority = Annotated[str | None, typer.Option("--priority", help="Only the jobs of this priority.")]
OfCaller = Annotated[str | None, typer.Option("--caller", help="Only the jobs of the API key of this name or id.")]

workers = typer.Typer(help="List and drain render workers.")


@workers.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_workers()


@workers.command("list")
def list_workers() -> None:
    """List the workers with a recent heartbeat."""
    found = Client(load()).get("/workers")["workers"]
    columns = ("id", "state", "device", "models", "weights", "jobs", "seen", "version")
    show_table(columns, [_worker_row(worker) for worker in found])


@workers.command()
def drain(worker_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the worker.")]) -> None:
    """Make a worker finish or return its jobs, then exit."""
    Client(load()).post(f"/workers/{escaped(worker_id)}/drain")
    say("draining: the worker takes no new jobs and exits")


def pause(model: OfModel = None, priority: OfPriority = None, caller: OfCaller = None) -> None:
    """Start no more jobs, or none of one group; new ones wait.

    A group is the jobs of a model, a priority or a caller.
    """
    group = _group(model=model, priority=priority, caller=caller)
    Client(load()).post(f"/pause?{urlencode(group)}")
    options = "".join(f" --{kind} {name}" for kind, name in group.items())
    say(f"paused: continue with `farm resume{options}`")


def resume(model: OfModel = None, priority: OfPriority = None, caller: OfCaller = None) -> None:
    """Start jobs again after `farm pause`.

    Give the same options.
    """
    group = _group(model=model, priority=priority, caller=caller)
    left = Client(load()).post(f"/resume?{urlencode(group)}")
    still = (["the farm"] if left["paused"] else []) + [f"{one['kind']} {one['name']}" for one in left["paused_groups"]]
    say("resumed" + (f"; still paused: {', '.join(still)}" if still else ""))


def _group(**options: str | None) -> dict[str, str]:
    """Return the one option that is given, as the API names it."""
    given = {kind: name for kind, name in options.items() if name is not None}
    if len(given) > 1:
        raise typer.BadParameter("give one of --model, --priority and --caller")
    return given


def models(
    as_json: Annotated[bool, typer.Option("--json", help="Print the models as JSON.")] = False,
) -> None:
    """List the models with their limits, ids and workers.

    Only an admin key shows the workers that have a model loaded.
    """
    found = Client(load()).get("/models")["models"]
    if as_json:
        say_json(found)
        return
    columns = ("model", "weights", "checker", "steps", "guidance", "sides", "workers", "ids")
    show_table(columns, [_model_row(model) for model in found])


def _model_row(model: dict[str, Any]) -> tuple[object, ...]:
    limits = model["limits"]
    return (
        model["name"],
        model["weights"] if model["served"] else _unserved(model),
        model["safety"],
        _range(limits["num_inference_steps"]),
        _range(limits["guidance_scale"]),
        _range(limits["sides"]),
        ", ".join(_location(worker) for worker in model["workers"] or ()),
        " ".join(model["ids"]),
    )


def _range(limits: dict[str, float]) -> str:
    """Return the values of a field as text; a lone one is fixed."""
    return "–".join(f"{value:g}" for value in dict.fromkeys((limits["min"], limits["max"])))


def _location(worker: dict[str, Any]) -> str:
    """Return the machine and device of a worker, and its state unless it takes jobs."""
    state = "" if worker["state"] == "warm" else f"({worker['state']})"
    return " ".join(filter(None, (worker["host"], worker["device"], state)))


def _unserved(model: dict[str, object]) -> str:
    """Return why the farm does not serve a model: no worker has loaded it, or nothing can check its images."""
    return "not served: needs a safety checker" if model["safety"] == "off" else "not served"


def _worker_row(worker: dict[str, Any]) -> tuple[object, ...]:
    seen = f"{worker['silent_seconds']:.1f} s ago"
    return (
        worker["id"],
        worker["state"],
        worker["device"],
        ", ".join(worker["models"]),
        worker["weights"],
        worker["jobs"],
        seen,
        worker["version"],
    )
