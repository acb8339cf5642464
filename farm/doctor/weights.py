"""Check real weights: every file is there and complete, licences."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from farm.bootstrap import checkpoints_of, loras_of
from farm.doctor.finding import Finding, good, note, refused, size, wrong
from farm.domain.errors import ConfigurationError
from farm.settings import Settings
from farm.weights.checkpoints import (
    FLUX_REPOSITORY,
    KONTEXT_REPOSITORY,
    PARTS,
    SRPO_FILE,
    SRPO_REMEDY,
    SRPO_SHA256,
    Checkpoints,
    check_enhancer,
    index_of,
    lacking,
    misfit,
    one_without_the_other,
    transformer_blocks,
    transformer_problems,
    weight_files,
)
from farm.weights.lora_files import NEEDS_SRPO, shapes_in, updates_in
from farm.weights.manifest import manifest_of
from farm.weights.tensor_files import GGUF, HEADER_ERRORS, end_of, is_gguf, read_header

#: Called with the number of bytes read since the last call.
Progress = Callable[[int], None]

_SRPO = "tencent/SRPO"
_PIECE = 2**24
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class WeightFile:
    """A weight file, the tensors that an index lists for it, its published digest, and how to download it."""

    path: Path
    remedy: str
    tensors: frozenset[str] = frozenset()
    published: str | None = None


@dataclass(frozen=True, slots=True)
class Home:
    """A folder of weights as published, and the parts whose weights come from another file."""

    path: Path
    repository: str
    replaced: tuple[str, ...] = ()

    def download(self, *names: str) -> str:
        """Return the command that downloads these files."""
        wanted = " ".join(f"--include '{name}'" for name in names)
        return f"hf download {self.repository} {wanted} --local-dir {self.path}"


def are_real(settings: Settings) -> bool:
    """Return True if the settings ask for real weights."""
    return settings.pipeline == "flux" and checkpoints_of(settings).are_set


def weights(settings: Settings) -> Iterator[Finding]:
    """Check weights by size and header, which is fast. Only `digests` finds a flipped bit."""
    checkpoints = checkpoints_of(settings)
    if settings.pipeline == "simulated":
        yield good("weights", "not needed: FARM_PIPELINE=simulated")
    elif not checkpoints.are_set:
        yield good("weights", "the bundled miniature")
    elif checkpoints.missing is not None:
        yield wrong("weights", one_without_the_other(checkpoints.missing), f"set {checkpoints.missing}")
    else:
        yield from _check_files(checkpoints, files_of(settings))


def licences(settings: Settings) -> Finding:
    """Check that FARM_ACCEPT_LICENSES names every licence of the weights."""
    missing = checkpoints_of(settings).not_accepted(settings.accept_licenses)
    if not missing:
        return good("licences", "accepted: " + ", ".join(sorted(settings.accept_licenses)))
    text = f"FARM_ACCEPT_LICENSES does not name {', '.join(missing)}, so these weights do not load"
    names = ",".join([*sorted(settings.accept_licenses), *missing])
    return wrong("licences", text, f"read them, then FARM_ACCEPT_LICENSES={names}")


def loras(settings: Settings) -> Finding:
    """Check that the LoRA files fit SRPO's transformer. Which layers the miniature has, its worker knows."""
    checkpoints, files = checkpoints_of(settings), loras_of(settings)
    if checkpoints.are_set and checkpoints.srpo_file is None:
        raise ConfigurationError(NEEDS_SRPO)
    shapes = shapes_in([checkpoints.srpo_file]) if checkpoints.srpo_file else None
    updates = [updates_in(lora.path, shapes) for lora in files]
    changed = len({rows.weight for found in updates for update in found for rows in update.rows})
    of_what = f", which change {changed} weights of SRPO's transformer" if shapes else ""
    return good("LoRA", ", ".join(f"{lora.path} at {lora.strength:g}" for lora in files) + of_what)


def enhancer(folder: Path) -> Finding:
    """Check the folder of the prompt enhancer's language model."""
    check_enhancer(folder)
    total = size(sum(path.stat().st_size for path in folder.iterdir()))
    return good("enhancer", f"{folder}: a language model, {total}; it is loaded for the first prompt")


def digests(files: Iterable[WeightFile], progress: Progress) -> Iterator[Finding]:
    """Compare the SHA-256 of weight files with the recorded ones. Takes minutes."""
    for file in files:
        if flaw := flaw_in(file):
            yield wrong("digest", f"{file.path}: {flaw}", file.remedy)
        else:
            yield digest_finding(file, _digest(file.path, progress))


def digest_finding(file: WeightFile, found: str) -> Finding:
    """Compare a file's digest with the recorded or published one."""
    record = recorded(file.path) or file.published
    text = f"{file.path}: sha256 {found}"
    if record is None:
        return note("digest", f"{text}; no digest is on record to compare with")
    if found != record:
        return wrong("digest", f"{text}, but {record} is on record", file.remedy)
    return good("digest", f"{text}, as on record")


def recorded(path: Path) -> str | None:
    """Return the digest of the file's manifest, or that which the downloader `hf` recorded.

    `hf` records it as a file name in its cache, or in a metadata file.
    """
    if manifest := manifest_of(path):
        return manifest.sha256
    target = path.resolve()
    if target.parent.name == "blobs" and _SHA256.fullmatch(target.name):
        return target.name
    for folder in path.parents:
        notes = folder / ".cache" / "huggingface" / "download" / f"{path.relative_to(folder)}.metadata"
        if notes.is_file():
            return next((line for line in notes.read_text("utf-8").splitlines() if _SHA256.fullmatch(line)), None)
    return None


def files_of(settings: Settings) -> list[WeightFile]:
    """Return the files that workers load: SRPO's, FLUX.1-dev's except its transformer, and Kontext's."""
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
    published = SRPO_SHA256 if _is_as_published(path) else None
    return WeightFile(path, f"hf download {_SRPO} {name} --local-dir {path.parent}", published=published)


def _is_as_published(path: Path) -> bool:
    """Return True if a file may be SRPO's own, which is in fp32: not one in another format that was made of it."""
    try:
        return all(tensor.number_format == "F32" for tensor in read_header(path)[0].values())
    except HEADER_ERRORS:
        return path.suffix != GGUF


def _files_in(home: Home) -> Iterator[WeightFile]:
    for part in PARTS:
        if part not in home.replaced:
            yield from _files_of_part(home, part)


def _files_of_part(home: Home, part: str) -> Iterator[WeightFile]:
    index = index_of(home.path, part)
    for name in weight_files(home.path, part):
        tensors = frozenset(tensor for tensor, shard in index.items() if f"{part}/{shard}" == name)
        # Without an index the number of a part's files is unknown.
        yield WeightFile(home.path / name, home.download(name if index else f"{part}/*"), tensors)


def _check_files(checkpoints: Checkpoints, files: list[WeightFile]) -> Iterator[Finding]:
    homes = _homes(checkpoints)
    incomplete = [finding for home in homes if (finding := _incomplete(home))]
    broken = [wrong("weights", f"{file.path}: {flaw}", file.remedy) for file in files if (flaw := flaw_in(file))]
    broken = broken or list(_misfits(checkpoints))
    yield from (*incomplete, *broken)
    if not incomplete and not broken:
        total = size(sum(file.path.stat().st_size for file in files))
        yield good("weights", f"{len(files)} files, {total}, complete by their headers (--digests reads all of them)")


def _misfits(checkpoints: Checkpoints) -> Iterator[Finding]:
    """Report SRPO's file if a worker would refuse its tensors."""
    if checkpoints.srpo_file is None or checkpoints.flux_dir is None or checkpoints.srpo_file.suffix == GGUF:
        return
    tensors, _ = read_header(checkpoints.srpo_file)
    formats = {name: tensor.number_format for name, tensor in tensors.items()}
    if differences := transformer_problems(formats, transformer_blocks(checkpoints.flux_dir)):
        yield refused("weights", misfit(checkpoints.srpo_file, differences, SRPO_REMEDY))


def _incomplete(home: Home) -> Finding | None:
    """Report the missing files of a folder, except weights, which are checked one by one."""
    missing = [name for name in lacking(home.path, without_weights=home.replaced) if not name.endswith(".safetensors")]
    return wrong("weights", f"{home.path} lacks {', '.join(missing)}", home.download(*missing)) if missing else None


def flaw_in(file: WeightFile) -> str | None:
    """Return what is wrong with a file, by its header and size."""
    if not file.path.is_file():
        return "missing"
    if file.path.suffix == GGUF:
        return None if is_gguf(file.path) else "not a GGUF file"
    try:
        tensors, _ = read_header(file.path)
        end = end_of(tensors)
        there = file.path.stat().st_size
    except HEADER_ERRORS as error:
        return f"not a safetensors file ({error})"
    if there != end:
        return f"{there:,} bytes instead of {end:,}"
    absent = sorted(file.tensors - tensors.keys())
    return f"lacks tensors that its index lists: {', '.join(absent[:3])}" if absent else None


def _digest(path: Path, progress: Progress) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            digest.update(piece)
            progress(len(piece))
    return digest.hexdigest()
