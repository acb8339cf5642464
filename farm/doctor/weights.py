"""Real weights: whether every file is there and whole, their licences, the image checker beside them."""

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
    FLUX_REPOSITORY,
    KONTEXT_REPOSITORY,
    PARTS,
    SRPO_FILE,
    SRPO_SHA256,
    Checkpoints,
    check_enhancer,
    index_of,
    lacking,
    one_without_the_other,
    weight_files,
)

#: Called with the bytes that were read since the last call.
Progress = Callable[[int], None]

_SRPO = "tencent/SRPO"
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


@dataclass(frozen=True, slots=True)
class Home:
    """A folder of weights as a repository publishes it, and the parts whose weights come from elsewhere."""

    path: Path
    repository: str
    replaced: tuple[str, ...] = ()

    def download(self, *names: str) -> str:
        """The command that brings these files of it."""
        wanted = " ".join(f"--include '{name}'" for name in names)
        return f"hf download {self.repository} {wanted} --local-dir {self.path}"


def checkpoints_of(settings: Settings) -> Checkpoints:
    return Checkpoints(settings.flux_dir, settings.srpo_file, settings.kontext_dir)


def are_real(settings: Settings) -> bool:
    """Whether these settings ask for weights that are not the farm's own."""
    return settings.pipeline == "flux" and checkpoints_of(settings).are_set


def weights(settings: Settings) -> Iterator[Finding]:
    """Judged by sizes and headers, which takes no time; a flipped bit is found by `digests` alone."""
    checkpoints = checkpoints_of(settings)
    if settings.pipeline == "simulated":
        yield good("weights", "none needed: FARM_PIPELINE=simulated")
    elif not checkpoints.are_set:
        yield good("weights", "none set: the miniature, which comes with the farm")
    elif checkpoints.missing is not None:
        yield wrong("weights", one_without_the_other(checkpoints.missing), f"set {checkpoints.missing}")
    else:
        yield from _whole_or_not(_homes(checkpoints), files_of(settings))


def licences(settings: Settings) -> Finding:
    missing = checkpoints_of(settings).not_accepted(settings.accept_licenses)
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


def enhancer(folder: Path) -> Finding:
    """The language model of the prompt enhancer."""
    check_enhancer(folder)
    total = size(sum(path.stat().st_size for path in folder.iterdir()))
    return good("enhancer", f"{folder}: a language model, {total}; whether it loads shows with the first prompt")


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
    """What workers would load: SRPO's file with FLUX.1-dev's parts but its transformer, and Kontext's folder."""
    checkpoints = checkpoints_of(settings)
    if not are_real(settings) or checkpoints.missing is not None:
        return []
    found = [file for home in _homes(checkpoints) for file in _files_in(home)]
    return found if checkpoints.srpo_file is None else [*found, _srpo(checkpoints.srpo_file)]


def _homes(checkpoints: Checkpoints) -> list[Home]:
    homes = []
    if checkpoints.flux_dir is not None:
        homes.append(Home(checkpoints.flux_dir, FLUX_REPOSITORY, replaced=("transformer",)))
    if checkpoints.kontext_dir is not None:
        homes.append(Home(checkpoints.kontext_dir, KONTEXT_REPOSITORY))
    return homes


def _srpo(path: Path) -> WeightFile:
    name = SRPO_FILE.partition(" ")[0]
    return WeightFile(path, f"hf download {_SRPO} {name} --local-dir {path.parent}", published=SRPO_SHA256)


def _files_in(home: Home) -> Iterator[WeightFile]:
    for part in PARTS:
        if part not in home.replaced:
            yield from _files_of_part(home, part)


def _files_of_part(home: Home, part: str) -> Iterator[WeightFile]:
    index = index_of(home.path, part)
    for name in weight_files(home.path, part):
        tensors = frozenset(tensor for tensor, shard in index.items() if f"{part}/{shard}" == name)
        # Without an index nobody here knows into how many files a part is divided.
        yield WeightFile(home.path / name, home.download(name if index else f"{part}/*"), tensors)


def _whole_or_not(homes: list[Home], files: list[WeightFile]) -> Iterator[Finding]:
    incomplete = [finding for home in homes if (finding := _incomplete(home))]
    broken = [wrong("weights", f"{file.path}: {flaw}", file.remedy) for file in files if (flaw := flaw_in(file))]
    yield from (*incomplete, *broken)
    if not incomplete and not broken:
        total = size(sum(file.path.stat().st_size for file in files))
        yield good("weights", f"{len(files)} files, {total}, whole by their headers (--digests reads all of them)")


def _incomplete(home: Home) -> Finding | None:
    """What a folder lacks beside its weights, each of which is looked at."""
    missing = [name for name in lacking(home.path, without_weights=home.replaced) if not name.endswith(".safetensors")]
    return wrong("weights", f"{home.path} lacks {', '.join(missing)}", home.download(*missing)) if missing else None


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
