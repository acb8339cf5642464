"""The footprint of the configured weights, by the headers of their files."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path

from farm.domain.errors import ConfigurationError
from farm.weights.checkpoints import Checkpoints, weight_files
from farm.weights.fp8 import FP8_FORMAT, may_be_fp8
from farm.weights.memory_plan import Footprint
from farm.weights.tensor_files import GGUF, HEADER_ERRORS, TensorEntry, read_header


def footprint_of(checkpoints: Checkpoints) -> Footprint:
    """Return the footprint of these weights. Raises ConfigurationError for a file without a header."""
    found = Footprint(has_kontext=checkpoints.kontext_dir is not None)
    if checkpoints.srpo_file is not None:
        found += transformer_footprint([checkpoints.srpo_file])
    if checkpoints.kontext_dir is not None:
        found += transformer_footprint(_files(checkpoints.kontext_dir, "transformer"))
    folders = [folder for folder in (checkpoints.flux_dir, checkpoints.kontext_dir) if folder is not None]
    encoders = _shared(folders, "text_encoder_2")
    small = sum(_shared(folders, part) for part in ("text_encoder", "vae"))
    return found + Footprint(text_encoder=encoders, small=small)


def transformer_footprint(files: Iterable[Path]) -> Footprint:
    """Return the footprint of a transformer in these files."""
    return sum((_of_file(path) for path in files), Footprint())


def _of_file(path: Path) -> Footprint:
    if path.suffix == GGUF:
        return Footprint(stored_bytes=path.stat().st_size)
    tensors = tensors_of(path)
    stored = {name: tensor for name, tensor in tensors.items() if tensor.number_format == FP8_FORMAT}
    blocks = {name: t for name, t in tensors.items() if may_be_fp8(name, len(t.shape)) and name not in stored}
    rest = tensors.keys() - stored.keys() - blocks.keys()
    return Footprint(
        blocks=_values(blocks),
        others=sum(tensors[name].values for name in rest),
        stored_bytes=_values(stored),
    )


def _shared(folders: Iterable[Path], part: str) -> int:
    """Return the values of a part, which is loaded once if its sizes are the same in every folder."""
    sizes = {tuple(_values(tensors_of(path)) for path in _files(folder, part)) for folder in folders}
    return sum(sum(sizes_of_files) for sizes_of_files in sizes)


def _files(folder: Path, part: str) -> list[Path]:
    return [folder / name for name in weight_files(folder, part)]


def _values(tensors: Mapping[str, TensorEntry]) -> int:
    return sum(tensor.values for tensor in tensors.values())


def tensors_of(path: Path) -> Mapping[str, TensorEntry]:
    """Return the tensors of a file. Raises ConfigurationError if it is not a safetensors file."""
    try:
        return read_header(path)[0]
    except HEADER_ERRORS as error:
        raise ConfigurationError(
            f"{path} cannot be loaded: it is not a complete safetensors file ({error}); download it again"
        ) from error
