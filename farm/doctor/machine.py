"""Check this machine: Python, disk, memory and the device to render on. Does not import torch."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from importlib import util
from pathlib import Path

from farm import __version__
from farm.doctor.finding import Finding, Mark, good, note, size, wrong
from farm.process import toolchain
from farm.process.data_dir import existing, file_systems
from farm.process.hardware import Card, Torch, cards, free_memory, installed_torch
from farm.process.placement import is_short_of_memory, places, usable_cards
from farm.settings import Settings
from farm.uploads import uploads

_GIB = 2**30
#: The oldest Python version that works.
_PYTHON = (3, 11)
#: Free bytes below which a disk is a note.
_DISK_NEARLY_FULL = 5 * _GIB
#: Free inodes below which a disk is an error: each image and each upload takes one.
_MIN_INODES = 1000
#: Free bytes below which memory is an error, and below which it is a note.
_MEMORY = (_GIB // 4, _GIB)
#: Packages that a render worker needs.
_ENGINES = ("torch", "diffusers", "transformers", "accelerate", "safetensors")
_WORKER = "pip install 'srpo-farm[worker]'"


def python(version: Sequence[int] = sys.version_info[:3]) -> Finding:
    shown = ".".join(map(str, version))
    if tuple(version[:2]) < _PYTHON:
        return wrong("Python", f"{shown} is too old; the farm needs 3.11 or later", "sudo apt install python3.11")
    return good("Python", f"{shown}; srpo-farm {__version__} in {sys.prefix}")


def disk(data_dir: Path) -> Iterator[Finding]:
    """Check each file system that holds a part of the data folder, or would hold it."""
    for folder, free in file_systems(data_dir).items():
        yield disk_finding(folder, free)
        status = os.statvfs(existing(folder))
        yield from inodes_finding(folder, free=status.f_favail, total=status.f_files)


def disk_finding(folder: Path, free: int) -> Finding:
    """Judge the free bytes of a folder's disk."""
    text = f"{size(free)} free for {folder}"
    remedy = "free space there, keep images for a shorter time (FARM_RESULT_TTL), or move the farm with --data-dir"
    if free < uploads.MIN_FREE_BYTES:
        return wrong("disk", f"{text}: uploads are refused, and soon jobs", remedy)
    return note("disk", text, remedy) if free < _DISK_NEARLY_FULL else good("disk", text)


def inodes_finding(folder: Path, *, free: int, total: int) -> Iterator[Finding]:
    """Judge the inodes of a folder's disk, without which it takes no file; some file systems have no `total`."""
    if total and free < _MIN_INODES:
        text = f"{free} inodes free for {folder}, of {total}: soon no image can be stored"
        yield wrong("disk", text, "remove small files there, or move the farm with --data-dir to a larger file system")


def memory() -> Finding:
    """Check the free memory of the machine, or of the container if that is less."""
    free = free_memory()
    return note("memory", "this system does not report its free memory") if free is None else memory_finding(free)


def memory_finding(free: int) -> Finding:
    """Judge the free memory, in bytes."""
    text = f"{size(free)} free"
    remedy = "stop other programs, run fewer workers (`farm up --workers 1`), or raise the limit of the container"
    too_little, little = _MEMORY
    if free < too_little:
        return wrong("memory", text, remedy)
    return note("memory", text, remedy) if free < little else good("memory", text)


def device(settings: Settings, *, alone: bool) -> Finding:
    """Check the device to render on. `alone`: no other machine can render for this farm."""
    missing = [name for name in _ENGINES if util.find_spec(name) is None]
    torch = installed_torch()
    if missing or torch is None:
        text = f"{', '.join(missing)} missing, so no worker can render here"
        return wrong("device", text, _WORKER) if alone else note("device", text, _WORKER)
    found = [] if settings.device == "cpu" else cards()
    finding = device_finding(settings.device, cards=found, torch=torch, real_weights=settings.has_real_weights)
    if finding.mark is Mark.WRONG:
        return finding
    count = len(places(settings, None))
    limit = ", as memory allows" * is_short_of_memory(settings)
    return replace(finding, text=f"{finding.text}; farm up starts {count} worker{'s' * (count > 1)}{limit}")


def device_finding(setting: str | None, *, cards: Sequence[Card], torch: Torch, real_weights: bool) -> Finding:
    """Judge FARM_DEVICE. The miniature uses the CPU unless FARM_DEVICE is set."""
    kind, _, number = (setting or ("cuda" if real_weights and cards else "cpu")).partition(":")
    if kind not in ("cpu", "cuda") or (number and not (kind == "cuda" and number.isdecimal())):
        return wrong("device", f"FARM_DEVICE={setting} is not a device", "FARM_DEVICE=cpu, cuda, cuda:0, cuda:1, …")
    if kind == "cpu":
        return _on_the_cpu(setting, torch, real_weights)
    wanted = [card for card in cards if number in ("", str(card.number))]
    if not wanted:
        there = ", ".join(["cpu", *(f"cuda:{card.number}" for card in cards)])
        return wrong("device", f"FARM_DEVICE={setting} does not exist", f"FARM_DEVICE: this machine has {there}")
    shown = "; ".join(map(_shown, wanted))
    if torch.cuda is None:
        text = f"torch {torch.version} is built without CUDA, so it cannot use {shown}"
        return wrong("device", text, f"pip install --force-reinstall 'torch=={torch.version.partition('+')[0]}'")
    return good("device", f"{shown}; torch {torch.version} with CUDA {torch.cuda}")


def compiler(settings: Settings) -> Iterator[Finding]:
    """Check that models can be compiled for the device that workers use, if FARM_COMPILE wants that."""
    kind: toolchain.Device = "cuda" if usable_cards(settings) else "cpu"
    if settings.compile == "off" or (settings.compile == "auto" and kind == "cpu"):
        return
    lacking = toolchain.missing(kind)
    if lacking is None:
        yield good("compiler", "models are compiled for their sizes when these first come")
        return
    things, _, command = lacking.partition(" (")
    text = f"{things} missing, so models are not compiled"
    if settings.compile == "on":
        yield wrong("compiler", f"{text}, as FARM_COMPILE=on demands", command.rstrip(")"))
    else:
        yield note("compiler", f"{text}, and slower than they could be", command.rstrip(")"))


def _shown(card: Card) -> str:
    text = f"cuda:{card.number}: {card.name}"
    if card.memory is None or card.free_memory is None:
        return text
    return f"{text}, {size(card.free_memory)} of {size(card.memory)} free"


def _on_the_cpu(setting: str | None, torch: Torch, real_weights: bool) -> Finding:
    text = f"the CPU; torch {torch.version}"
    if not real_weights:
        return good("device", text)
    slow = "an image with real weights takes very long"
    if setting:
        return note("device", f"{text}, as FARM_DEVICE says: {slow}", "unset FARM_DEVICE")
    return note("device", f"{text}, as there is no NVIDIA card or no driver: {slow}", "nvidia-smi")
