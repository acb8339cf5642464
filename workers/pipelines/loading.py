"""From files to a pipeline: the miniature, or FLUX.1-dev with the transformer of SRPO. Never over the network."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from farm.errors import ConfigurationError
from farm.weights import PARTS, SRPO_FILE, SRPO_SHA256, check_licences, lacking, one_without_the_other
from workers.pipelines.device import choose_device, number_format
from workers.pipelines.engine import FluxPipeline, FluxTransformer2DModel, keep_to_this_machine
from workers.pipelines.fingerprint import build_digest
from workers.pipelines.flux import ATTENTION, FluxSrpoPipeline
from workers.pipelines.miniature import ensure_miniature
from workers.pipelines.pipeline import MINIATURE, SRPO

#: Files that decide what a part computes; others (readmes, caches) are not the build's business.
_LOADED = (".json", ".model", ".safetensors", ".txt")
_FLOATS = ("F32", "BF16", "F16")


def load_miniature(folder: Path, device: str | None = None) -> FluxSrpoPipeline:
    """The bundled miniature, made in `folder` if it is not there yet; on the CPU unless a device is named.

    From then on torch computes with one thread in this process. Two are a third faster on two idle cores, but wait for
    each other actively: beside two busy processes a picture took up to 20 s with two threads, and 1.9 s with one.
    """
    keep_to_this_machine()
    torch.set_num_threads(1)
    chosen = choose_device(device or "cpu")
    home = ensure_miniature(folder)
    _refuse_incomplete(home, lacking(home), "delete the folder, and the farm makes it anew")
    parts = _load(home, chosen)
    return _pipeline(parts, chosen, MINIATURE, _files(home))


def load_srpo(
    flux_dir: Path | None, srpo_file: Path | None, accepted: frozenset[str], device: str | None = None
) -> FluxSrpoPipeline:
    """SRPO: the transformer in `srpo_file`, everything else from FLUX.1-dev's folder; on the best device there is.

    `accepted`: the names of the licences that the operator accepts (`farm.weights.LICENCES`).
    """
    if flux_dir is None or srpo_file is None:
        raise ConfigurationError(one_without_the_other(flux_dir))
    check_licences(accepted)
    missing = lacking(flux_dir, without_weights=("transformer",))
    _refuse_incomplete(flux_dir, missing, "FARM_FLUX_DIR is the folder of black-forest-labs/FLUX.1-dev with all of it")
    keep_to_this_machine()
    chosen = choose_device(device)
    transformer = load_transformer(flux_dir / "transformer", srpo_file, chosen, number_format(chosen))
    parts = _load(flux_dir, chosen, transformer=transformer)
    files = _files(flux_dir, without_weights=("transformer",)) | {"srpo": srpo_file}
    return _pipeline(parts, chosen, SRPO, files)


def load_transformer(
    config: Path, weights: Path, device: torch.device, number_format: torch.dtype
) -> FluxTransformer2DModel:
    """A transformer as `config`/config.json describes it, with the tensors of one file of diffusers' key names.

    Built without memory for its weights, then given each tensor on `device` in `number_format`: at no time is there
    more beside the finished model than one tensor of the file.
    """
    with _readable(config):
        described = FluxTransformer2DModel.load_config(config, local_files_only=True)
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(described)
    with _opened(weights) as file:
        expected = model.state_dict()
        _refuse_other_tensors(weights, _differences(expected, file))
        tensors = {name: file.get_tensor(name).to(device, number_format) for name in expected}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _load(folder: Path, device: torch.device, **given: FluxTransformer2DModel) -> FluxPipeline:
    """The folder's parts on the device, ready to compute; those that are given are not read."""
    with _readable(folder):
        parts = FluxPipeline.from_pretrained(
            folder, dtype=number_format(device), local_files_only=True, use_safetensors=True, **given
        )
    parts.to(device)
    for network in (parts.text_encoder, parts.text_encoder_2, parts.transformer, parts.vae):
        network.requires_grad_(False).eval()
        _into_own_memory(network)
    return parts


def _into_own_memory(network: nn.Module) -> None:
    """Copy weights on the CPU out of their mapped files, one after the other.

    In a file a tensor starts anywhere, in torch's own memory at a multiple of 64 bytes, and the CPU's kernels sum up
    in another order where it does not: equal weights from differently laid out files would differ in their pictures.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _pipeline(parts: FluxPipeline, device: torch.device, weights: str, files: Mapping[str, Path]) -> FluxSrpoPipeline:
    return FluxSrpoPipeline(parts, weights, build_digest(files, device, number_format(device), ATTENTION))


def _files(folder: Path, without_weights: tuple[str, ...] = ()) -> dict[str, Path]:
    """What is loaded from the folder, by names that do not depend on where it is."""
    found = [path for part in PARTS for path in sorted((folder / part).iterdir()) if path.suffix in _LOADED]
    return {
        path.relative_to(folder).as_posix(): path
        for path in found
        if path.parent.name not in without_weights or path.name == "config.json"
    }


def _refuse_incomplete(folder: Path, missing: list[str], remedy: str) -> None:
    if missing:
        raise ConfigurationError(f"{folder} lacks {_some(missing)}; {remedy}.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Inside, what a library says of broken files becomes one line that names where they are."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{path} cannot be loaded: {reason}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """The file, open for reading tensor by tensor."""
    if not path.is_file():
        raise ConfigurationError(f"FARM_SRPO_FILE={path} is no file; it is the {SRPO_FILE}.")
    try:
        with safe_open(path, framework="pt", device="cpu") as file:
            yield file
    except (OSError, SafetensorError) as error:
        raise ConfigurationError(
            f"{path} is no whole safetensors file ({error}); FARM_SRPO_FILE is the {SRPO_FILE}, sha256 {SRPO_SHA256}."
        ) from error


def _differences(expected: Mapping[str, torch.Tensor], file: Any) -> list[str]:
    """What the file has otherwise than the model, judged by its header alone."""
    there = set(file.keys())
    missing = [f"{name} is missing" for name in expected if name not in there]
    extra = [f"{name} does not belong there" for name in sorted(there - expected.keys())]
    return (
        missing + extra + [text for name in expected if name in there for text in _other_tensor(name, expected, file)]
    )


def _other_tensor(name: str, expected: Mapping[str, torch.Tensor], file: Any) -> Iterator[str]:
    found, shape = file.get_slice(name), list(expected[name].shape)
    if found.get_shape() != shape:
        yield f"{name} has the shape {found.get_shape()} instead of {shape}"
    if found.get_dtype() not in _FLOATS:
        yield f"{name} holds {found.get_dtype()} instead of {', '.join(_FLOATS)}"


def _refuse_other_tensors(path: Path, differences: list[str]) -> None:
    if differences:
        raise ConfigurationError(
            f"{path} does not fit FLUX.1-dev's transformer: {_some(differences)};"
            f" FARM_SRPO_FILE is the {SRPO_FILE}, sha256 {SRPO_SHA256}."
        )


def _some(things: list[str]) -> str:
    """The first few of them, and how many more there are."""
    shown = ", ".join(things[:3])
    return shown if len(things) <= 3 else f"{shown} and {len(things) - 3} more"
