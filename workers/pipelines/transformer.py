"""Loading of a transformer from safetensors files, tensor by tensor: no second copy of it is ever in memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from farm.domain.errors import ConfigurationError
from farm.weights.checkpoints import misfit, transformer_blocks, transformer_problems
from farm.weights.fp8 import FP8_FORMAT, may_be_fp8
from workers.pipelines.engine import FluxTransformer2DModel
from workers.pipelines.fp8 import fp8_entries, multiplication_on, use_fp8_layers

#: Returns a tensor of a file, by its name, as it is to be used.
Change = Callable[[str, torch.Tensor], torch.Tensor]


@dataclass(frozen=True, slots=True)
class TransformerFiles:
    """A transformer's files: `config`, the folder of its config.json, and tensors with diffusers' names.

    `remedy` says where intact files come from.
    """

    config: Path
    paths: tuple[Path, ...]
    remedy: str


@dataclass(frozen=True, slots=True)
class Kept:
    """The way a transformer is kept: its device, its number format, and whether its blocks are in fp8."""

    device: torch.device
    number_format: torch.dtype
    in_fp8: bool = False


def load_transformer(files: TransformerFiles, kept: Kept, change: Change | None = None) -> FluxTransformer2DModel:
    """Load a transformer: it is built on the meta device, then given each tensor of the files on its own device.

    Peak memory is the finished model and one tensor of a file. `change` is made in fp32, before a tensor is rounded.
    """
    model = empty_model(files.config)
    with _opened(files) as tensors:
        formats = {name: entry.get_dtype() for name, entry in tensors.slices.items()}
        refuse_misfit(files, transformer_problems(formats, transformer_blocks(files.config.parent)))
        if is_pack := FP8_FORMAT in formats.values():
            _use_fp8_layers(model, kept)
        refuse_misfit(files, _differences(model.state_dict(), tensors.slices))
        names = list(model.state_dict())
        if kept.in_fp8 and not is_pack:
            _use_fp8_layers(model, kept)
        loaded: dict[str, torch.Tensor] = {}
        for name in names:
            tensor = tensors.read(name)
            loaded |= _kept_as_is(name, tensor, kept) if is_pack else _entries(name, tensor, kept, change)
    model.load_state_dict(loaded, strict=True, assign=True)
    return model.requires_grad_(False).eval()


class _Tensors:
    """The tensors of several open files."""

    def __init__(self, files: list[Any]) -> None:
        self._of = {name: file for file in files for name in file.keys()}  # noqa: SIM118  # not a mapping

    @property
    def slices(self) -> Mapping[str, Any]:
        """The description of each tensor, which is not read."""
        return {name: file.get_slice(name) for name, file in self._of.items()}

    def read(self, name: str) -> torch.Tensor:
        tensor: torch.Tensor = self._of[name].get_tensor(name)
        return tensor


def empty_model(config: Path) -> FluxTransformer2DModel:
    """Return the transformer that a folder describes, on the meta device."""
    with readable(config):
        described = FluxTransformer2DModel.load_config(config, local_files_only=True)
    with torch.device("meta"):
        return FluxTransformer2DModel.from_config(described)


def _use_fp8_layers(model: FluxTransformer2DModel, kept: Kept) -> None:
    use_fp8_layers(model, multiplication_on(kept.device))


def _entries(name: str, tensor: torch.Tensor, kept: Kept, change: Change | None) -> dict[str, torch.Tensor]:
    """Return a tensor's entries of the state dict."""
    moved = tensor.to(kept.device)
    if change is not None:
        moved = change(name, moved)
    if kept.in_fp8 and may_be_fp8(name, tensor.dim()):
        return fp8_entries(name, moved)
    # Copied in any case, out of the mapped file: a tensor starts anywhere in it, but at a multiple of 64 bytes in
    # torch's own memory, and the CPU's kernels sum in another order where it does not.
    return {name: moved.to(kept.number_format, copy=True)}


def _kept_as_is(name: str, tensor: torch.Tensor, kept: Kept) -> dict[str, torch.Tensor]:
    """Return the entry of a tensor of a file in fp8: weights and scales stay as they are."""
    is_full = tensor.dtype in (torch.bfloat16, torch.float16)
    return {name: tensor.to(kept.device, kept.number_format if is_full else tensor.dtype, copy=True)}


@contextmanager
def _opened(files: TransformerFiles) -> Iterator[_Tensors]:
    """Open the files for reading tensor by tensor."""
    with ExitStack() as stack:
        yield _Tensors([stack.enter_context(_open(path, files.remedy)) for path in files.paths])


@contextmanager
def _open(path: Path, remedy: str) -> Iterator[Any]:
    if not path.is_file():
        raise ConfigurationError(f"{path} is not a file; {remedy}")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(f"{path} is not a complete safetensors file ({error}); {remedy}") from error


@contextmanager
def readable(path: Path) -> Iterator[None]:
    """Convert a library's exceptions for broken files, inside the block, to one line that names `path`."""
    try:
        yield
    except (OSError, ValueError, LookupError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{path} cannot be loaded: {reason}") from error


def _differences(expected: Mapping[str, torch.Tensor], found: Mapping[str, Any]) -> list[str]:
    """Return how the files' tensors differ from the model's, by their headers alone."""
    missing = [f"{name} is missing" for name in expected if name not in found]
    extra = [f"{name} does not belong there" for name in sorted(found.keys() - expected.keys())]
    misshapen = [
        f"{name} has the shape {found[name].get_shape()} instead of {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in found and found[name].get_shape() != list(tensor.shape)
    ]
    return missing + extra + misshapen


def refuse_misfit(files: TransformerFiles, differences: list[str]) -> None:
    """Raise ConfigurationError if the files differ from the transformer that they should hold."""
    if differences:
        where = files.paths[0] if len(files.paths) == 1 else files.paths[0].parent
        raise ConfigurationError(misfit(where, differences, files.remedy))
