"""Check this machine: Python, disk, memory and the device to render on. Does not import torch."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from importlib import metadata, util
from pathlib import Path

from farm import __version__
from farm.doctor.finding import Finding, good, note, size, wrong
from farm.domain.errors import FarmError

_GIB = 2**30
#: The oldest Python version that works.
_PYTHON = (3, 11)
#: Free bytes below which a disk is an error, and below which it is a note.
_DISK = (_GIB, 5 * _GIB)
#: The same for memory.
_MEMORY = (_GIB // 4, _GIB)
#: Packages that a render worker needs.
_ENGINES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
_WORKER = "pip install 'srpo-farm[worker]'"


class NoAnswer(FarmError):
    """A program of this machine failed."""


@dataclass(frozen=True, slots=True)
class Torch:
    """The installed torch, read from its files. `cuda`: the CUDA version of the build, if any."""

    version: str
    cuda: str | None


def python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    shown = ".".join(map(str, version))
    if tuple(version[:2]) < _PYTHON:
        return wrong("Python", f"{shown} is too old; the farm needs 3.11 or later", "sudo apt install python3.11")
    return good("Python", f"{shown}; srpo-farm {__version__} in {sys.prefix}")


def disk(folders: Iterable[Path]) -> Iterator[Finding]:
    """Check each file system that holds these folders, or would hold them."""
    by_device = {existing(folder).stat().st_dev: folder for folder in folders}
    for folder in by_device.values():
        yield disk_finding(folder, shutil.disk_usage(existing(folder)).free)


def disk_finding(folder: Path, free: int) -> Finding:
    """Judge the free bytes of a folder's disk."""
    text = f"{size(free)} free for {folder}"
    remedy = "free space there, keep images for a shorter time (FARM_RESULT_TTL), or move the farm with --data-dir"
    too_full, nearly_full = _DISK
    if free < too_full:
        return wrong("disk", text, remedy)
    return note("disk", text, remedy) if free < nearly_full else good("disk", text)


def existing(path: Path) -> Path:
    """Return the path, or the nearest parent that exists."""
    return next(folder for folder in (path, *path.parents) if folder.exists())


def memory() -> Finding:
    """Check the free memory of the machine, or of the container if that is less."""
    try:
        meminfo = Path("/proc/meminfo").read_text()
    except FileNotFoundError:
        return note("memory", "this system does not report its free memory")
    found = re.search(r"^MemAvailable: +(\d+) kB", meminfo, re.MULTILINE)
    free = int(found[1]) * 1024 if found else 0
    return memory_finding(min([free, *free_in_container(Path("/sys/fs/cgroup"))]))


def memory_finding(free: int) -> Finding:
    """Judge the free memory, in bytes."""
    text = f"{size(free)} free"
    remedy = "stop other programs, run fewer workers (`farm up --workers 1`), or raise the limit of the container"
    too_little, little = _MEMORY
    if free < too_little:
        return wrong("memory", text, remedy)
    return note("memory", text, remedy) if free < little else good("memory", text)


def free_in_container(group: Path) -> list[int]:
    """Return the bytes left under a control group's limit, if any. Its file cache counts as free."""
    try:
        limit = (group / "memory.max").read_text().strip()
        used = int((group / "memory.current").read_text())
        cache = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text(), re.MULTILINE)
    except OSError:
        return []
    return [] if limit == "max" else [int(limit) - used + (int(cache[1]) if cache else 0)]


def device(setting: str | None, *, real_weights: bool, alone: bool) -> Finding:
    """Check the device to render on. `alone`: no other machine can render for this farm."""
    missing = [name for name in _ENGINES if util.find_spec(name) is None]
    if missing:
        text = f"{', '.join(missing)} missing, so no worker can render here"
        return wrong("device", text, _WORKER) if alone else note("device", text, _WORKER)
    return device_finding(setting, cards=cards(), torch=installed_torch(), real_weights=real_weights)


def device_finding(setting: str | None, *, cards: Sequence[str], torch: Torch, real_weights: bool) -> Finding:
    """Judge FARM_DEVICE. The miniature uses the CPU unless FARM_DEVICE is set."""
    kind, _, number = (setting or ("cuda" if real_weights and cards else "cpu")).partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        return wrong("device", f"FARM_DEVICE={setting} is not a device", "FARM_DEVICE=cpu, cuda, cuda:0, cuda:1, …")
    if kind == "cpu":
        return _on_the_cpu(setting, torch, real_weights)
    wanted = int(number or 0)
    if wanted >= len(cards):
        there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(len(cards)))])
        return wrong("device", f"FARM_DEVICE={setting} does not exist", f"FARM_DEVICE: this machine has {there}")
    if torch.cuda is None:
        text = f"torch {torch.version} is built without CUDA, so it cannot use {cards[wanted]}"
        return wrong("device", text, f"pip install --force-reinstall 'torch=={torch.version.partition('+')[0]}'")
    return good("device", f"cuda:{wanted}: {cards[wanted]}; torch {torch.version} with CUDA {torch.cuda}")


def _on_the_cpu(setting: str | None, torch: Torch, real_weights: bool) -> Finding:
    text = f"the CPU; torch {torch.version}"
    if not real_weights:
        return good("device", text)
    slow = "an image with real weights takes very long"
    if setting:
        return note("device", f"{text}, as FARM_DEVICE says: {slow}", "unset FARM_DEVICE")
    return note("device", f"{text}, as there is no NVIDIA card or no driver: {slow}", "nvidia-smi")


def cards() -> list[str]:
    """Return the NVIDIA cards of this machine and their memory, as the driver reports them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        paths = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        return [re.sub(r"(?s).*?Model:\s*([^\n]+).*", r"\1", path.read_text()) for path in paths]
    query = [program, "--query-gpu=name,memory.total,memory.free", "--format=csv,noheader"]
    done = subprocess.run(query, capture_output=True, text=True, timeout=5, check=False)
    if done.returncode:
        message = (done.stdout + done.stderr).strip().partition("\n")[0]
        raise NoAnswer(f"nvidia-smi fails: {message}; install the driver again, or set FARM_DEVICE=cpu")
    return [_card(line) for line in done.stdout.splitlines()]


def _card(line: str) -> str:
    name, total, free = (part.strip() for part in line.rsplit(",", 2))
    return f"{name}, {free} of {total} free"


def installed_torch() -> Torch:
    """Return the installed torch without importing it."""
    spec = util.find_spec("torch")
    assert spec is not None
    assert spec.origin is not None
    facts = Path(spec.origin).with_name("version.py").read_text()
    cuda = re.search(r"^cuda\b[^=\n]*= '([^']+)'", facts, re.MULTILINE)
    return Torch(metadata.version("torch"), cuda[1] if cuda else None)
