"""Hardware of this machine: NVIDIA cards, processor cores, free memory, and the CUDA version of the installed torch.

Does not import torch.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from importlib import metadata, util
from pathlib import Path

from farm.domain.errors import FarmError
from farm.settings import environment

_CONTROL_GROUP = Path("/sys/fs/cgroup")
_MIB = 2**20
#: How the UUIDs of cards and of parts of cards begin.
_UUIDS = ("GPU-", "MIG-")
#: A driver that is not kept loaded takes seconds per card.
_DRIVER_SECONDS = 30.0

_WITHOUT_IT = (
    "install the driver again, or set CUDA_VISIBLE_DEVICES to the UUIDs of the cards that work, or FARM_DEVICE=cpu"
)


class NoAnswer(FarmError):
    """A program of this machine failed."""


@dataclass(frozen=True, slots=True)
class Card:
    """An NVIDIA card: its number, as in `cuda:0`, its UUID, name, and bytes of memory, if the driver reports them."""

    number: int
    uuid: str
    name: str
    memory: int | None = None
    free_memory: int | None = None


@dataclass(frozen=True, slots=True)
class Torch:
    """The installed torch, read from its files. `cuda`: the CUDA version of the build, if any."""

    version: str
    cuda: str | None


def cards() -> list[Card]:
    """Return the cards that this machine's programs may use: all, or those of CUDA_VISIBLE_DEVICES, in its order."""
    names = environment().get("CUDA_VISIBLE_DEVICES")
    try:
        found = _all_cards()
    except NoAnswer:
        # UUIDs say enough: so the other cards of a machine work while one of them stops the driver's program.
        if names is None or not names.startswith(_UUIDS):
            raise
        found = [Card(0, name.strip(), "NVIDIA card") for name in names.split(",")]
    return visible(found, names)


def visible(found: Sequence[Card], names: str | None) -> list[Card]:
    """Return the cards that CUDA_VISIBLE_DEVICES selects, numbered as CUDA numbers them."""
    if names is None:
        return list(found)
    return [replace(card, number=number) for number, card in enumerate(_selected(found, names.split(",")))]


def _selected(found: Sequence[Card], names: Iterable[str]) -> Iterator[Card]:
    """Yield the named cards up to the first name that means none, as CUDA does."""
    for name in map(str.strip, names):
        card = _part_of_a_card(name) or next((card for card in found if _is_named(card, name)), None)
        if card is None:
            return
        yield card


def _is_named(card: Card, name: str) -> bool:
    return name == str(card.number) or (name.startswith("GPU-") and card.uuid.startswith(name))


def _part_of_a_card(name: str) -> Card | None:
    return Card(0, name, "part of a card (MIG)") if name.startswith("MIG-") else None


def _all_cards() -> list[Card]:
    """Return the cards in the order of their places on the bus, as the driver reports them."""
    program = shutil.which("nvidia-smi")
    if program is None:
        paths = sorted(Path("/proc/driver/nvidia/gpus").glob("*/information"))
        return [_card_of_the_kernel(number, path.read_text("utf-8")) for number, path in enumerate(paths)]
    query = [program, "--query-gpu=uuid,name,memory.total,memory.free", "--format=csv,noheader,nounits"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=_DRIVER_SECONDS, check=False)
    except subprocess.TimeoutExpired as error:
        raise NoAnswer(f"nvidia-smi does not answer within {_DRIVER_SECONDS:.0f} s; {_WITHOUT_IT}") from error
    if done.returncode:
        message = (done.stdout + done.stderr).strip().partition("\n")[0]
        raise NoAnswer(f"nvidia-smi fails: {message}; {_WITHOUT_IT}")
    return [_card_of_the_driver(number, line) for number, line in enumerate(done.stdout.splitlines())]


def _card_of_the_driver(number: int, line: str) -> Card:
    uuid, name, *memory = (part.strip() for part in line.split(","))
    total, free = (int(mebibytes) * _MIB if mebibytes.isdecimal() else None for mebibytes in memory)
    return Card(number, uuid, name, total, free)


def _card_of_the_kernel(number: int, information: str) -> Card:
    facts = dict(re.findall(r"^([^:\n]+?):\s*(.*?)\s*$", information, re.MULTILINE))
    return Card(number, facts.get("GPU UUID", str(number)), facts.get("Model", "NVIDIA card"))


def cores(group: Path = _CONTROL_GROUP) -> int:
    """Return the processor cores that this process may use; a container's limit counts, rounded up."""
    usable = len(os.sched_getaffinity(0))
    try:
        quota, period = (group / "cpu.max").read_text("utf-8").split()
    except (OSError, ValueError):
        return usable
    return usable if quota == "max" else max(1, min(usable, -(-int(quota) // int(period))))


def total_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = _CONTROL_GROUP) -> int | None:
    """Return the bytes of the machine, or of the container if they are fewer; None if no one reports them."""
    try:
        found = re.search(r"^MemTotal: +(\d+) kB", meminfo.read_text("utf-8"), re.MULTILINE)
    except FileNotFoundError:
        return None
    total = int(found[1]) * 1024 if found else 0
    limit = _limit_of_container(group)
    return total if limit is None else min(total, limit)


def free_memory(meminfo: Path = Path("/proc/meminfo"), group: Path = _CONTROL_GROUP) -> int | None:
    """Return the free bytes of the machine, or of the container if they are fewer; None if no one reports them."""
    try:
        found = re.search(r"^MemAvailable: +(\d+) kB", meminfo.read_text("utf-8"), re.MULTILINE)
    except FileNotFoundError:
        return None
    free = int(found[1]) * 1024 if found else 0
    return min([free, *free_in_container(group)])


def free_in_container(group: Path) -> list[int]:
    """Return the bytes left under a control group's limit, if any. Its file cache counts as free."""
    limit = _limit_of_container(group)
    try:
        used = int((group / "memory.current").read_text("utf-8"))
        cache = re.search(r"^inactive_file (\d+)", (group / "memory.stat").read_text("utf-8"), re.MULTILINE)
    except OSError:
        return []
    return [] if limit is None else [limit - used + (int(cache[1]) if cache else 0)]


def _limit_of_container(group: Path) -> int | None:
    try:
        limit = (group / "memory.max").read_text("utf-8").strip()
    except OSError:
        return None
    return int(limit) if limit.isdecimal() else None


def installed_torch() -> Torch | None:
    """Return the installed torch, if any, without importing it."""
    spec = util.find_spec("torch")
    if spec is None or spec.origin is None:
        return None
    facts = Path(spec.origin).with_name("version.py").read_text("utf-8")
    cuda = re.search(r"^cuda\b[^=\n]*= '([^']+)'", facts, re.MULTILINE)
    return Torch(metadata.version("torch"), cuda[1] if cuda else None)
