"""Loading of pipelines from files: the miniature, or FLUX.1-dev with SRPO's transformer, and Kontext.

Nothing is downloaded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from farm.domain.catalogue import Weights
from farm.domain.errors import ConfigurationError
from farm.weights import (
    FLUX_REPOSITORY,
    KONTEXT_REPOSITORY,
    PARTS,
    SRPO_FILE,
    SRPO_SHA256,
    Checkpoints,
    check_licences,
    lacking,
    lacking_in_part,
    misfit,
    one_without_the_other,
    some,
    transformer_blocks,
    transformer_problems,
)
from workers.pipelines import miniature
from workers.pipelines.device import allow_expandable_segments, choose_device, number_format
from workers.pipelines.engine import FluxPipeline, FluxTransformer2DModel, keep_to_this_machine
from workers.pipelines.execution import DEFAULT, Execution
from workers.pipelines.fingerprint import build_digest, file_digest
from workers.pipelines.flux import FluxModels
from workers.pipelines.network import Network
from workers.pipelines.pipeline import MINIATURE

#: Files that decide what a part computes; others (readmes, caches) are not the build's business.
_LOADED = (".json", ".model", ".safetensors", ".txt")
#: What a part's description says of its file rather than of the part.
_PROVENANCE = ("dtype", "torch_dtype", "transformers_version")
#: The part of FLUX.1-dev that SRPO replaces.
_REPLACED = ("transformer",)
_INSTALL_AGAIN = "it comes with the farm: install srpo-farm again"


def load_miniature(
    device: str | None = None, home: Path = miniature.HOME, execution: Execution = DEFAULT
) -> FluxModels:
    """Load the bundled miniature, on the CPU unless a device is named.

    Kontext has SRPO's transformer unless it has one of its own.

    It limits torch to one thread in this process. Two are a third faster on two idle cores, but wait for each other
    actively: beside two busy processes an image took up to 20 s with two threads, and 1.9 s with one.
    """
    keep_to_this_machine()
    torch.set_num_threads(1)
    chosen = choose_device(device or "cpu")
    allow_expandable_segments(chosen)
    _refuse_incomplete(home, lacking(home), _INSTALL_AGAIN)
    srpo = kontext = _load(home, chosen)
    files = _files(home)
    editor = miniature.kontext(home)
    if editor.exists():
        _refuse_incomplete(editor, lacking_in_part(editor, "transformer"), _INSTALL_AGAIN)
        kontext = FluxPipeline(**(srpo.components | {"transformer": _load_transformer(editor, chosen)}))
        files |= _named("kontext", _files_of_part(editor, "transformer"))
    return _models(files, chosen, MINIATURE, execution, srpo=srpo, kontext=kontext)


def load_checkpoints(
    checkpoints: Checkpoints,
    accepted: frozenset[str],
    device: str | None = None,
    execution: Execution = DEFAULT,
) -> FluxModels:
    """Load SRPO, Kontext or both, as set; on the best available device.

    `accepted`: the names of the licences that the operator accepts (`farm.weights.LICENCES`).
    """
    if checkpoints.missing is not None:
        raise ConfigurationError(one_without_the_other(checkpoints.missing))
    check_licences(checkpoints, accepted)
    _refuse_incomplete_folders(checkpoints)
    keep_to_this_machine()
    chosen = choose_device(device)
    allow_expandable_segments(chosen)
    files: dict[str, Path] = {}
    srpo = kontext = None
    if checkpoints.flux_dir is not None and checkpoints.srpo_file is not None:
        srpo = _load_srpo(checkpoints.flux_dir, checkpoints.srpo_file, chosen)
        files |= _files(checkpoints.flux_dir, without_weights=_REPLACED) | {"srpo": checkpoints.srpo_file}
    if checkpoints.kontext_dir is not None:
        kontext = _load(checkpoints.kontext_dir, chosen, **_shared(srpo, checkpoints))
        files |= _named("kontext", _files(checkpoints.kontext_dir))
    return _models(files, chosen, checkpoints.name, execution, srpo=srpo, kontext=kontext)


def _refuse_incomplete_folders(checkpoints: Checkpoints) -> None:
    if checkpoints.flux_dir is not None:
        missing = lacking(checkpoints.flux_dir, without_weights=_REPLACED)
        remedy = f"FARM_FLUX_DIR is the folder of {FLUX_REPOSITORY} with all of it"
        _refuse_incomplete(checkpoints.flux_dir, missing, remedy)
    if checkpoints.kontext_dir is not None:
        remedy = f"FARM_KONTEXT_DIR is the folder of {KONTEXT_REPOSITORY} with all of it"
        _refuse_incomplete(checkpoints.kontext_dir, lacking(checkpoints.kontext_dir), remedy)


def _load_srpo(flux_dir: Path, srpo_file: Path, device: torch.device) -> FluxPipeline:
    """Load the transformer from `srpo_file`, and everything else from FLUX.1-dev's folder."""
    transformer = load_transformer(flux_dir / "transformer", srpo_file, device, number_format(device))
    return _load(flux_dir, device, transformer=transformer)


def _shared(srpo: FluxPipeline | None, checkpoints: Checkpoints) -> dict[str, Any]:
    """Return the loaded parts that Kontext can share: those whose files are the same in both folders."""
    flux_dir, kontext_dir = checkpoints.flux_dir, checkpoints.kontext_dir
    if srpo is None or flux_dir is None or kontext_dir is None:
        return {}
    parts = [part for part in PARTS if part not in _REPLACED and _is_same(flux_dir / part, kontext_dir / part)]
    return {part: srpo.components[part] for part in parts}


def _is_same(part: Path, other: Path) -> bool:
    return _contents(part) == _contents(other)


def _contents(part: Path) -> dict[str, object]:
    """Return the contents of a part's files for comparison, without the provenance in its description."""
    return {
        path.name: _description(path) if path.name == "config.json" else file_digest(path) for path in _loaded(part)
    }


def _description(path: Path) -> dict[str, object]:
    with _readable(path):
        described: dict[str, object] = json.loads(path.read_text())
    return {name: value for name, value in described.items() if not name.startswith("_") and name not in _PROVENANCE}


def load_transformer(
    config: Path, weights: Path, device: torch.device, number_format: torch.dtype
) -> FluxTransformer2DModel:
    """Load a transformer as `config`/config.json describes it, from one file of tensors with diffusers' key names.

    It is built on the meta device, then given each tensor on `device` in `number_format`: peak memory is the finished
    model and one tensor of the file.
    """
    with _readable(config):
        described = FluxTransformer2DModel.load_config(config, local_files_only=True)
    with torch.device("meta"):
        model = FluxTransformer2DModel.from_config(described)
    with _opened(weights) as file:
        formats = {name: file.get_slice(name).get_dtype() for name in file.keys()}  # noqa: SIM118  # not a mapping
        _refuse_other_tensors(weights, transformer_problems(formats, transformer_blocks(config.parent)))
        expected = model.state_dict()
        _refuse_other_tensors(weights, _differences(expected, file))
        tensors = {name: file.get_tensor(name).to(device, number_format) for name in expected}
    model.load_state_dict(tensors, strict=True, assign=True)
    return model.requires_grad_(False).eval()


def _load(folder: Path, device: torch.device, **given: Any) -> FluxPipeline:
    """Load the folder's parts on the device, for inference; those that are given are not read."""
    with _readable(folder):
        parts = FluxPipeline.from_pretrained(
            folder, dtype=number_format(device), local_files_only=True, use_safetensors=True, **given
        )
    parts.to(device)
    for network in (parts.text_encoder, parts.text_encoder_2, parts.transformer, parts.vae):
        _make_ready(network)
    return parts


def _load_transformer(folder: Path, device: torch.device) -> FluxTransformer2DModel:
    """Load the transformer of a folder that may lack the other parts."""
    with _readable(folder):
        transformer = FluxTransformer2DModel.from_pretrained(
            folder,
            subfolder="transformer",
            torch_dtype=number_format(device),
            local_files_only=True,
            use_safetensors=True,
        )
    _make_ready(transformer.to(device))
    return transformer


def _make_ready(network: nn.Module) -> None:
    network.requires_grad_(False).eval()
    _into_own_memory(network)


def _into_own_memory(network: nn.Module) -> None:
    """Copy weights on the CPU out of their mapped files, one after the other.

    A tensor starts anywhere in a file, but at a multiple of 64 bytes in torch's own memory, and the CPU's kernels sum
    in another order where it does not: equal weights in files of another layout would render other pixels.
    """
    for tensor in (*network.parameters(), *network.buffers()):
        if tensor.device.type == "cpu":
            tensor.data = tensor.data.clone()


def _models(
    files: Mapping[str, Path],
    device: torch.device,
    weights: str,
    execution: Execution,
    *,
    srpo: FluxPipeline | None,
    kontext: FluxPipeline | None,
) -> FluxModels:
    found = {Weights.SRPO: srpo, Weights.KONTEXT: kontext}
    loaded = {name: parts for name, parts in found.items() if parts is not None}
    prepared = execution.prepare(loaded, device, number_format(device))
    build = build_digest(files, device, number_format(device), prepared.facts)
    networks = {name: Network(parts) for name, parts in loaded.items()}
    return FluxModels(networks, weights=weights, build=build, warm_ups=prepared.warm_ups)


def _files(folder: Path, without_weights: tuple[str, ...] = ()) -> dict[str, Path]:
    """Return the files that are loaded from the folder, by their paths within it."""
    found = dict(chain.from_iterable(_files_of_part(folder, part).items() for part in PARTS))
    return {
        name: path
        for name, path in found.items()
        if path.parent.name not in without_weights or path.name == "config.json"
    }


def _files_of_part(folder: Path, part: str) -> dict[str, Path]:
    return {path.relative_to(folder).as_posix(): path for path in _loaded(folder / part)}


def _loaded(part: Path) -> list[Path]:
    return sorted(path for path in part.iterdir() if path.suffix in _LOADED)


def _named(kind: str, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files with `kind` before their names, which keeps them apart from those of other weights."""
    return {f"{kind}/{name}": path for name, path in files.items()}


def _refuse_incomplete(folder: Path, missing: list[str], remedy: str) -> None:
    if missing:
        raise ConfigurationError(f"{folder} lacks {some(missing)}; {remedy}.")


@contextmanager
def _readable(path: Path) -> Iterator[None]:
    """Convert a library's exceptions for broken files, inside the block, to one line that names `path`."""
    try:
        yield
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"{path} cannot be loaded: {reason}") from error


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """Open the file for reading tensor by tensor."""
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
    """Return how the file's tensors differ from the model's, by its header alone."""
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


def _refuse_other_tensors(path: Path, differences: list[str]) -> None:
    if differences:
        raise ConfigurationError(misfit(path, differences))
