"""Loading of pipelines from files: the miniature, or FLUX.1-dev with SRPO's transformer, and Kontext.

Nothing is downloaded.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from farm.domain.acceleration import Levels
from farm.domain.catalogue import Weights
from farm.domain.errors import ConfigurationError
from farm.weights.checkpoints import (
    FLUX_REPOSITORY,
    KONTEXT_REPOSITORY,
    PARTS,
    SRPO_FILE,
    SRPO_REMEDY,
    Checkpoints,
    check_licences,
    lacking,
    lacking_in_part,
    one_without_the_other,
    some,
    weight_files,
)
from farm.weights.footprint import footprint_of
from farm.weights.lora_files import NEEDS_SRPO, Lora
from farm.weights.memory_plan import AUTO, Choice, MemoryPlan, copy_bytes, fits_with_copy, plan_for, resident
from farm.weights.tensor_files import GGUF
from workers.pipelines import miniature
from workers.pipelines.device import (
    allow_expandable_segments,
    await_free_memory,
    choose_device,
    memory_of,
    number_format,
)
from workers.pipelines.engine import FluxPipeline, FluxTransformer2DModel, keep_to_this_machine
from workers.pipelines.execution import DEFAULT, Execution
from workers.pipelines.fingerprint import build_digest, file_digest
from workers.pipelines.flux import FluxModels
from workers.pipelines.fp8 import copy_in_fp8, multiplies_in_fp8
from workers.pipelines.gguf import load_gguf_transformer
from workers.pipelines.lora_fusion import fusion
from workers.pipelines.network import Network
from workers.pipelines.offload import offload_text_encoder, offload_transformer
from workers.pipelines.pipeline import MINIATURE
from workers.pipelines.transformer import Kept, TransformerFiles, load_transformer, readable
from workers.pipelines.warm_up import with_shared_forwards

log = logging.getLogger(__name__)

#: Files that decide what a part computes; others (readmes, caches) are not the build's business.
_LOADED = (".json", ".model", ".safetensors", ".txt")
#: What a part's description says of its file rather than of the part.
_PROVENANCE = ("dtype", "torch_dtype", "transformers_version")
#: The part of FLUX.1-dev that SRPO replaces.
_REPLACED = ("transformer",)
_KONTEXT_REMEDY = f"FARM_KONTEXT_DIR is the folder of {KONTEXT_REPOSITORY} with all of it"
_INSTALL_AGAIN = "it comes with the farm: install srpo-farm again"


@dataclass(frozen=True, slots=True)
class Target:
    """The device that pipelines are loaded on, and how their weights are kept there.

    `takes_fp8_copies`: it multiplies in fp8, and has memory for copies of the transformers.
    """

    device: torch.device
    plan: MemoryPlan
    takes_fp8_copies: bool = False

    @property
    def number_format(self) -> torch.dtype:
        return number_format(self.device)

    @property
    def transformer(self) -> Kept:
        """Return how transformers are kept; offloaded ones are not on the device."""
        home = torch.device("cpu") if self.plan.offload == "all" else self.device
        return Kept(home, self.number_format, in_fp8=self.plan.quantize == "fp8")


def load_miniature(
    device: str | None = None,
    home: Path = miniature.HOME,
    execution: Execution = DEFAULT,
    choice: Choice = AUTO,
    loras: Sequence[Lora] = (),
) -> FluxModels:
    """Load the bundled miniature, on the CPU unless a device is named.

    Kontext has SRPO's transformer, without LoRA files, unless it has one of its own.

    It limits torch to one thread in this process. Two are a third faster on two idle cores, but wait for each other
    actively: beside two busy processes an image took up to 20 s with two threads, and 1.9 s with one.
    """
    keep_to_this_machine()
    torch.set_num_threads(1)
    target = _miniature_target(device or "cpu", choice)
    _refuse_incomplete(home, lacking(home), _INSTALL_AGAIN)
    srpo = kontext = _load(home, target, _load_transformer(_files_of_transformer(home, _INSTALL_AGAIN), target, loras))
    files = _files(home) | _lora_files(loras)
    editor = miniature.kontext(home)
    if editor.exists():
        _refuse_incomplete(editor, lacking_in_part(editor, "transformer"), _INSTALL_AGAIN)
        files |= _named("kontext", _files_of_part(editor, "transformer"))
    if loras or editor.exists():
        own = _files_of_transformer(editor if editor.exists() else home, _INSTALL_AGAIN)
        kontext = FluxPipeline(**(srpo.components | {"transformer": _load_transformer(own, target)}))
    return _models(files, target, MINIATURE, execution, loras, srpo=srpo, kontext=kontext)


def _miniature_target(device: str, choice: Choice) -> Target:
    """Return where the miniature is loaded; it fits everywhere, so only what was asked for is done to it."""
    chosen = choose_device(device)
    allow_expandable_segments(chosen)
    plan = MemoryPlan("fp8" if choice.quantize == "fp8" else "none")
    return Target(chosen, plan, plan.quantize == "none" and multiplies_in_fp8(chosen))


def load_checkpoints(
    checkpoints: Checkpoints,
    accepted: frozenset[str],
    device: str | None = None,
    execution: Execution = DEFAULT,
    choice: Choice = AUTO,
    *,
    loras: Sequence[Lora] = (),
) -> FluxModels:
    """Load SRPO, Kontext or both, as set; on the best available device.

    `accepted`: the names of the licences that the operator accepts (`farm.weights.checkpoints.LICENCES`).
    """
    if checkpoints.missing is not None:
        raise ConfigurationError(one_without_the_other(checkpoints.missing))
    if loras and not checkpoints.has_srpo:
        raise ConfigurationError(NEEDS_SRPO)
    check_licences(checkpoints, accepted)
    _refuse_incomplete_files(checkpoints)
    keep_to_this_machine()
    target = _checkpoints_target(checkpoints, device, choice, execution.levels)
    files: dict[str, Path] = {}
    srpo = kontext = None
    if checkpoints.flux_dir is not None and checkpoints.srpo_file is not None:
        srpo = _load_srpo(checkpoints.flux_dir, checkpoints.srpo_file, target, loras)
        files |= _files(checkpoints.flux_dir, without_weights=_REPLACED) | {"srpo": checkpoints.srpo_file}
        files |= _lora_files(loras)
    if checkpoints.kontext_dir is not None:
        kontext = _load_kontext(checkpoints.kontext_dir, target, _shared(srpo, checkpoints))
        files |= _named("kontext", _files(checkpoints.kontext_dir))
    return _models(files, target, checkpoints.name, execution, loras, srpo=srpo, kontext=kontext)


def _checkpoints_target(checkpoints: Checkpoints, device: str | None, choice: Choice, levels: Levels) -> Target:
    """Return where real weights are loaded. Raises ConfigurationError, before any are read, if they do not fit."""
    chosen = choose_device(device)
    allow_expandable_segments(chosen)
    footprint, memory = footprint_of(checkpoints), memory_of(chosen)
    plan = plan_for(footprint, memory, choice)
    takes_copies = fits_with_copy(footprint, plan, memory) and multiplies_in_fp8(chosen)
    copies = copy_bytes(footprint) if takes_copies and levels.in_fp8 else 0
    await_free_memory(chosen, resident(footprint, plan, memory.value_bytes) + copies)
    return Target(chosen, plan, takes_copies)


def _refuse_incomplete_files(checkpoints: Checkpoints) -> None:
    if checkpoints.srpo_file is not None and not checkpoints.srpo_file.is_file():
        raise ConfigurationError(f"FARM_SRPO_FILE={checkpoints.srpo_file} is not a file; it is the {SRPO_FILE}.")
    if checkpoints.flux_dir is not None:
        missing = lacking(checkpoints.flux_dir, without_weights=_REPLACED)
        remedy = f"FARM_FLUX_DIR is the folder of {FLUX_REPOSITORY} with all of it"
        _refuse_incomplete(checkpoints.flux_dir, missing, remedy)
    if checkpoints.kontext_dir is not None:
        _refuse_incomplete(checkpoints.kontext_dir, lacking(checkpoints.kontext_dir), _KONTEXT_REMEDY)


def _load_srpo(flux_dir: Path, srpo_file: Path, target: Target, loras: Sequence[Lora]) -> FluxPipeline:
    """Load the transformer from `srpo_file`, and everything else from FLUX.1-dev's folder."""
    files = TransformerFiles(flux_dir / "transformer", (srpo_file,), SRPO_REMEDY)
    return _load(flux_dir, target, _load_transformer(files, target, loras))


def _load_kontext(folder: Path, target: Target, shared: Mapping[str, Any]) -> FluxPipeline:
    return _load(folder, target, _load_transformer(_files_of_transformer(folder, _KONTEXT_REMEDY), target), **shared)


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
    with readable(path):
        described: dict[str, object] = json.loads(path.read_text("utf-8"))
    return {name: value for name, value in described.items() if not name.startswith("_") and name not in _PROVENANCE}


def _files_of_transformer(folder: Path, remedy: str) -> TransformerFiles:
    paths = tuple(folder / name for name in weight_files(folder, "transformer"))
    return TransformerFiles(folder / "transformer", paths, remedy)


def _load_transformer(files: TransformerFiles, target: Target, loras: Sequence[Lora] = ()) -> FluxTransformer2DModel:
    with fusion(loras, files.paths) as change:
        if files.paths[0].suffix == GGUF:
            transformer = load_gguf_transformer(files, target.transformer)
        else:
            transformer = load_transformer(files, target.transformer, change)
    if target.plan.offload == "all":
        offload_transformer(transformer, target.device)
    return transformer


def _load(folder: Path, target: Target, transformer: FluxTransformer2DModel, **shared: Any) -> FluxPipeline:
    """Load the folder's other parts, for inference; those that are shared are not read."""
    with readable(folder):
        parts = FluxPipeline.from_pretrained(
            folder,
            dtype=target.number_format,
            local_files_only=True,
            use_safetensors=True,
            transformer=transformer,
            **shared,
        )
    own = {name: part for name, part in parts.components.items() if name not in shared}
    for name in {"text_encoder", "text_encoder_2", "vae"} & own.keys():
        _make_ready(own[name], target, offloaded=name == "text_encoder_2" and target.plan.offload != "none")
    if target.plan.tile is not None:
        use_tiles(parts.vae, target.plan.tile)
    return parts


def use_tiles(vae: Any, side: int) -> None:
    """Have the VAE work in tiles of this side in pixels, overlapping by a quarter, for images that are larger."""
    vae.enable_tiling()
    vae.tile_sample_min_size = side
    vae.tile_latent_min_size = side // 2 ** (len(vae.config.block_out_channels) - 1)


def _make_ready(network: nn.Module, target: Target, *, offloaded: bool) -> None:
    network.requires_grad_(False).eval()
    if offloaded:
        offload_text_encoder(network, target.device)
    else:
        _into_own_memory(network.to(target.device))


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
    target: Target,
    weights: str,
    execution: Execution,
    loras: Sequence[Lora],
    *,
    srpo: FluxPipeline | None,
    kontext: FluxPipeline | None,
) -> FluxModels:
    found = {Weights.SRPO: srpo, Weights.KONTEXT: kontext}
    loaded = {name: parts for name, parts in found.items() if parts is not None}
    copies = _fp8_copies(loaded, target, execution.levels)
    prepare = partial(_executable(execution, target).prepare, device=target.device, number_format=target.number_format)
    prepared = prepare(loaded)
    digest = partial(build_digest, files, target.device, target.number_format)
    strengths = [lora.strength for lora in loras]
    facts = f"{prepared.facts}; {target.plan}; LoRA at {strengths}; copies in fp8 of {sorted(copies)}"
    networks = {name: Network(parts, _transformer_of(copies.get(name))) for name, parts in loaded.items()}
    sharing = execution.sharing(networks, digest(facts))
    build = digest(f"{facts}; {sharing}")
    warm_ups = with_shared_forwards(prepared.warm_ups, loaded, sharing)
    if copies:
        warm_ups = warm_ups.before(with_shared_forwards(prepare(copies).warm_ups, copies, sharing))
    return FluxModels(
        networks, weights=weights, build=build, levels=execution.levels, warm_ups=warm_ups, sharing=sharing
    )


def _fp8_copies(loaded: Mapping[Weights, FluxPipeline], target: Target, levels: Levels) -> dict[Weights, FluxPipeline]:
    """Return the networks whose transformers are copies in fp8, as levels want them and the device takes them."""
    if not levels.in_fp8:
        return {}
    if not target.takes_fp8_copies:
        log.warning(
            "%s: rendered in full, not in fp8 as FARM_STEP_MASKS says: %s has no units or no memory for it.",
            ", ".join(levels.in_fp8),
            target.device,
        )
        return {}
    return {
        name: FluxPipeline(**(parts.components | {"transformer": copy_in_fp8(parts.transformer, target.device)}))
        for name, parts in loaded.items()
    }


def _transformer_of(parts: FluxPipeline | None) -> Any:
    return None if parts is None else parts.transformer


def _executable(execution: Execution, target: Target) -> Execution:
    """Return the execution, without compilation where weights move during a forward, which is not one graph."""
    if target.plan.offload != "all":
        return execution
    if execution.compile == "on":
        raise ConfigurationError("FARM_COMPILE=on does not work with FARM_OFFLOAD=all; unset one of them")
    return replace(execution, compile="off")


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


def _lora_files(loras: Sequence[Lora]) -> dict[str, Path]:
    return {f"lora/{number}": lora.path for number, lora in enumerate(loras)}


def _loaded(part: Path) -> list[Path]:
    return sorted(path for path in part.iterdir() if path.suffix in _LOADED)


def _named(kind: str, files: Mapping[str, Path]) -> dict[str, Path]:
    """Return the files with `kind` before their names, which keeps them apart from those of other weights."""
    return {f"{kind}/{name}": path for name, path in files.items()}


def _refuse_incomplete(folder: Path, missing: list[str], remedy: str) -> None:
    if missing:
        raise ConfigurationError(f"{folder} lacks {some(missing)}; {remedy}.")
