"""Real weights: whether every file is there and whole, their licences, the picture checker beside them."""

from __future__ import annotations

import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from farm.doctor.finding import Finding, good, note, size, wrong
from farm.settings import Settings
from farm.weights import (
    PARTS,
    SRPO_FILE,
    SRPO_SHA256,
    index_of,
    lacking,
    not_accepted,
    one_without_the_other,
    weight_files,
)

#: Called with the bytes that were read since the last call.
Progress = Callable[[int], None]

_FLUX, _SRPO = "black-forest-labs/FLUX.1-dev", "tencent/SRPO"
#: The one part that comes from SRPO instead.
_REPLACED = ("transformer",)
#: No header of a real file is longer.
_LONGEST_HEADER = 10**8
_PIECE = 2**24
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A file of weights, the tensors that an index says are in it, its published digest, and how to get it anew."""

    path: Path
    remedy: str
    tensors: frozenset[str] = frozenset()
    published: str | None = None


def are_real(settings: Settings) -> bool:
    """Whether these settings ask for weights that are not the farm's own."""
    return settings.pipeline == "flux" and (settings.flux_dir is not None or settings.srpo_file is not None)


def weights(settings: Settings) -> Iterator[Finding]:
    """Judged by sizes and headers, which takes no time; a flipped bit is found by `digests` alone."""
    if settings.pipeline == "simulated":
        yield good("weights", "none needed: FARM_PIPELINE=simulated")
    elif settings.flux_dir is None and settings.srpo_file is None:
        yield good("weights", "none set: the miniature, which the farm makes itself")
    elif settings.flux_dir is None or settings.srpo_file is None:
        missing = "FARM_FLUX_DIR" if settings.flux_dir is None else "FARM_SRPO_FILE"
        yield wrong("weights", one_without_the_other(settings.flux_dir), f"set {missing}")
    else:
        yield from _whole_or_not(settings.flux_dir, files_of(settings))


def licences(settings: Settings) -> Finding:
    missing = not_accepted(settings.accept_licenses)
    if not missing:
        return good("licences", "accepted: " + ", ".join(sorted(settings.accept_licenses)))
    text = f"FARM_ACCEPT_LICENSES does not name {', '.join(missing)}, so these weights do not load"
    names = ",".join([*sorted(settings.accept_licenses), *missing])
    return wrong("licences", text, f"read them, then FARM_ACCEPT_LICENSES={names}")


def safety(settings: Settings) -> Finding:
    """The checker that is set beside real weights."""
    if settings.safety == "off":
        return note("safety", "FARM_SAFETY=off: requests that ask for checking, the default, are refused")
    text = f"FARM_SAFETY={settings.safety} cannot check real weights" if settings.safety else "FARM_SAFETY is not set"
    return wrong("safety", f"{text}, so no worker starts with them", "FARM_SAFETY=off renders without checks")


def digests(settings: Settings, progress: Progress) -> Iterator[Finding]:
    """SHA-256 of every file of weights, compared with the one that is on record for it. Takes minutes."""
    for file in files_of(settings):
        if file.path.is_file():
            yield digest_finding(file, _digest(file.path, progress))


def digest_finding(file: WeightFile, found: str) -> Finding:
    record = recorded(file.path) or file.published
    text = f"{file.path}: sha256 {found}"
    if record is None:
        return note("digest", f"{text}; none is on record to compare it with")
    if found != record:
        return wrong("digest", f"{text}, but {record} is on record", file.remedy)
    return good("digest", f"{text}, as on record")


def recorded(path: Path) -> str | None:
    """The digest that the downloader `hf` left: a file's name in its cache, or its notes in a folder of one's own."""
    target = path.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    for folder in path.parents:
        notes = folder / ".cache" / "huggingface" / "download" / f"{path.relative_to(folder)}.metadata"
        if notes.is_file():
            return next((line for line in notes.read_text().splitlines() if _SHA256.fullmatch(line)), None)
    return None


def files_of(settings: Settings) -> list[WeightFile]:
    """What workers would load: the weights of FLUX.1-dev's parts but its transformer, and SRPO's file."""
    if not are_real(settings) or settings.flux_dir is None or settings.srpo_file is None:
        return []
    home, part_names = settings.flux_dir, [part for part in PARTS if part not in _REPLACED]
    name, place = SRPO_FILE.partition(" ")[0], settings.srpo_file.parent
    srpo = WeightFile(settings.srpo_file, f"hf download {_SRPO} {name} --local-dir {place}", published=SRPO_SHA256)
    return [*(file for part in part_names for file in _files_of_part(home, part)), srpo]


def _files_of_part(home: Path, part: str) -> Iterator[WeightFile]:
    index = index_of(home, part)
    for name in weight_files(home, part):
        tensors = frozenset(tensor for tensor, shard in index.items() if f"{part}/{shard}" == name)
        # Without an index nobody here knows into how many files a part is divided.
        yield WeightFile(home / name, _download(home, name if index else f"{part}/*"), tensors)


def _whole_or_not(flux_dir: Path, files: list[WeightFile]) -> Iterator[Finding]:
    flaws = [wrong("weights", f"{file.path}: {flaw}", file.remedy) for file in files if (flaw := flaw_in(file))]
    missing = [name for name in lacking(flux_dir, without_weights=_REPLACED) if not name.endswith(".safetensors")]
    if missing:
        flaws.insert(0, wrong("weights", f"{flux_dir} lacks {', '.join(missing)}", _download(flux_dir, *missing)))
    yield from flaws
    if not flaws:
        total = size(sum(file.path.stat().st_size for file in files))
        yield good("weights", f"{len(files)} files, {total}, whole by their headers (--digests reads all of them)")


def flaw_in(file: WeightFile) -> str | None:
    """What is wrong with a file, judged by its header and its size."""
    if not file.path.is_file():
        return "it is not there"
    try:
        tensors, end = _header(file.path)
        there = file.path.stat().st_size
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        return f"it cannot be read as safetensors ({error})"
    if there != end:
        return f"it should have {end:,} bytes and has {there:,}"
    absent = sorted(file.tensors - tensors.keys())
    return f"it lacks tensors that its index lists: {', '.join(absent[:3])}" if absent else None


def _header(path: Path) -> tuple[Mapping[str, Any], int]:
    """A safetensors file's tensors as its header describes them, and where the last of them ends."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_LONGEST_HEADER, os.fstat(file.fileno()).st_size):
            raise ValueError("no header")
        described = json.loads(file.read(length))
    described.pop("__metadata__", None)
    return described, 8 + length + max(tensor["data_offsets"][1] for tensor in described.values())


def _digest(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()


def _download(folder: Path, *names: str) -> str:
    wanted = " ".join(f"--include '{name}'" for name in names)
    return f"hf download {_FLUX} {wanted} --local-dir {folder}"
