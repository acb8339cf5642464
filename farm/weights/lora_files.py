"""LoRA files: which rows of a FLUX transformer's weights they change. Does not import torch, so the doctor can look.

A layer's name is that of diffusers (`transformer.transformer_blocks.0.attn.to_q`) or of FLUX's authors, as kohya's
programs write it (`lora_unet_double_blocks_0_img_attn_qkv`), which may stand for several weights of diffusers.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Literal

from farm.domain.errors import ConfigurationError
from farm.weights.checkpoints import FLOATS, some
from farm.weights.footprint import tensors_of
from farm.weights.fp8 import FP8_FORMAT
from farm.weights.tensor_files import GGUF, HEADER_ERRORS, TensorEntry, end_of, read_header

#: The error for LoRA files where only Kontext is loaded.
NEEDS_SRPO = "FARM_LORA changes SRPO's transformer, and only Kontext is set; unset FARM_LORA"
_REMEDY = "take a file for FLUX.1 [dev]'s transformer with the keys of diffusers or kohya (docs/lora.md)"

_PREFIX = re.compile(r"^(transformer\.|diffusion_model\.|lora_unet_|lora_transformer_)")
_OF_TEXT_ENCODERS = ("lora_te", "text_encoder")
#: What a tensor is in the update of a layer.
_Role = Literal["down", "up", "alpha"]
_DOWN: _Role = "down"
_UP: _Role = "up"
_ALPHA: _Role = "alpha"
_ENDINGS = {
    ".lora_A.weight": _DOWN,
    ".lora_down.weight": _DOWN,
    ".lora_B.weight": _UP,
    ".lora_up.weight": _UP,
    ".alpha": _ALPHA,
}
_NAMES = {_DOWN: "lora_A or lora_down", _UP: "lora_B or lora_up"}
#: Where diffusers writes how PEFT trained the file; without it, and without alpha, alpha is the rank.
_TRAINED = "lora_adapter_metadata"
_UNKNOWN_SCALES = ("use_rslora", "use_dora")

#: Layers of FLUX's authors, by diffusers' names; where there are several, theirs has the rows of one after the other.
_IN_BLOCKS = {
    ("double_blocks", "transformer_blocks"): {
        "img_attn_qkv": ("attn.to_q", "attn.to_k", "attn.to_v"),
        "img_attn_proj": ("attn.to_out.0",),
        "img_mlp_0": ("ff.net.0.proj",),
        "img_mlp_2": ("ff.net.2",),
        "img_mod_lin": ("norm1.linear",),
        "txt_attn_qkv": ("attn.add_q_proj", "attn.add_k_proj", "attn.add_v_proj"),
        "txt_attn_proj": ("attn.to_add_out",),
        "txt_mlp_0": ("ff_context.net.0.proj",),
        "txt_mlp_2": ("ff_context.net.2",),
        "txt_mod_lin": ("norm1_context.linear",),
    },
    ("single_blocks", "single_transformer_blocks"): {
        "linear1": ("attn.to_q", "attn.to_k", "attn.to_v", "proj_mlp"),
        "linear2": ("proj_out",),
        "modulation_lin": ("norm.linear",),
    },
}
_OUTSIDE_BLOCKS = {
    "img_in": "x_embedder",
    "txt_in": "context_embedder",
    "time_in_in_layer": "time_text_embed.timestep_embedder.linear_1",
    "time_in_out_layer": "time_text_embed.timestep_embedder.linear_2",
    "vector_in_in_layer": "time_text_embed.text_embedder.linear_1",
    "vector_in_out_layer": "time_text_embed.text_embedder.linear_2",
    "guidance_in_in_layer": "time_text_embed.guidance_embedder.linear_1",
    "guidance_in_out_layer": "time_text_embed.guidance_embedder.linear_2",
    "final_layer_linear": "proj_out",
}
#: The layer whose two halves diffusers has the other way round: scale before shift.
_SWAPPED = ("final_layer_adaLN_modulation_1", "norm_out.linear.weight")


@dataclass(frozen=True, slots=True)
class Lora:
    """A LoRA file and its strength (`FARM_LORA`)."""

    path: Path
    strength: float


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of an update, from `begin` on, that are added to as many rows of a weight, from `first` on."""

    weight: str
    begin: int
    first: int
    count: int


@dataclass(frozen=True, slots=True)
class LowRankUpdate:
    """An update of a layer: `up` times `down`, which are tensors of the file, and `alpha` over the rank.

    `alpha` is a tensor, too, or a number; None: it is the rank.
    """

    down: str
    up: str
    alpha: str | float | None
    rows: tuple[Rows, ...]


#: The shape of each weight of a transformer, by diffusers' names.
Shapes = Mapping[str, tuple[int, ...]]


def shapes_in(files: Iterable[Path]) -> Shapes:
    """Return the shapes of a transformer's weights. Raises ConfigurationError if nothing can be fused into them."""
    tensors: dict[str, TensorEntry] = {}
    for path in files:
        if path.suffix == GGUF:
            raise ConfigurationError(_quantised(path))
        tensors |= tensors_of(path)
        if any(entry.number_format == FP8_FORMAT for entry in tensors.values()):
            raise ConfigurationError(_quantised(path))
    return {name: entry.shape for name, entry in tensors.items()}


def _quantised(path: Path) -> str:
    return (
        f"FARM_LORA is fused into full weights, and those of {path} are quantised; set FARM_SRPO_FILE to the file in "
        "fp32 or bf16, with FARM_QUANTIZE=fp8 if memory is short"
    )


def updates_in(path: Path, weights: Shapes | None) -> list[LowRankUpdate]:
    """Return the updates of a LoRA file. Raises ConfigurationError, in one line, if any of it does not fit the weights.

    Without weights only what the file says of itself is checked, and nothing is returned.
    """
    file = _LoraFile.read(path)
    file.refuse([*file.foreign_keys(), *file.training.problems, *file.incomplete_layers()])
    if weights is None:
        return []
    known = dict(_known_layers(weights))
    file.refuse(file.misfits(known, weights))
    updates = [file.update(layer, known[_flat(layer)]) for layer in file.layers]
    file.refuse(_repeated(updates))
    return updates


@dataclass(frozen=True, slots=True)
class _Training:
    """PEFT's training settings in a file, as diffusers writes them: alpha for all layers, and for patterns of names."""

    alpha: float | None
    alphas: tuple[tuple[re.Pattern[str], float], ...]
    problems: tuple[str, ...]

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> _Training:
        described = json.loads(metadata.get(_TRAINED, "{}"))
        found = {name.removeprefix("transformer."): value for name, value in described.items()}
        patterns = (found.get("alpha_pattern") or {}).items()
        return cls(
            float(found["lora_alpha"]) if "lora_alpha" in found else None,
            tuple((re.compile(rf"(.*\.)?({names})"), float(alpha)) for names, alpha in patterns),
            tuple(f"it was trained with {name}" for name in _UNKNOWN_SCALES if found.get(name)),
        )

    def alpha_of(self, layer: str) -> float | None:
        """Return alpha of a layer, by its name without a prefix; None: it is the rank."""
        return next((alpha for names, alpha in self.alphas if names.fullmatch(layer)), self.alpha)


@dataclass(frozen=True, slots=True)
class _LoraFile:
    """The header of a LoRA file, and its tensors by layer and by what they are there."""

    path: Path
    tensors: Mapping[str, TensorEntry]
    training: _Training
    layers: Mapping[str, dict[_Role, str]]

    @classmethod
    def read(cls, path: Path) -> _LoraFile:
        if not path.is_file():
            raise ConfigurationError(f"FARM_LORA: {path} is not a file; name files that exist, each with :strength")
        try:
            tensors, metadata = read_header(path)
            if tensors and (size := path.stat().st_size) != end_of(tensors):
                raise ValueError(f"{size:,} bytes instead of {end_of(tensors):,}")
            return cls(path, tensors, _Training.of(metadata), _by_layer(tensors))
        except (*HEADER_ERRORS, re.error) as error:
            raise ConfigurationError(
                f"FARM_LORA: {path} is not a complete safetensors file ({error}); download it again"
            ) from error

    def refuse(self, problems: Iterable[str]) -> None:
        """Raise ConfigurationError if there are any problems."""
        if found := list(problems):
            raise ConfigurationError(f"FARM_LORA: {self.path} cannot be fused: {some(found)}; {_REMEDY}")

    def foreign_keys(self) -> Iterator[str]:
        known = {name for roles in self.layers.values() for name in roles.values()}
        encoders = sorted(name for name in self.tensors if name.startswith(_OF_TEXT_ENCODERS))
        if encoders:
            yield f"it changes a text encoder, too ({len(encoders)} keys such as {encoders[0]})"
        yield from (f"the key {name} is unknown" for name in sorted(self.tensors.keys() - known - set(encoders)))
        yield from (
            f"{name} holds {entry.number_format} instead of {', '.join(FLOATS)}"
            for name, entry in self.tensors.items()
            if entry.number_format not in FLOATS
        )
        if not self.tensors:
            yield "it is empty"

    def incomplete_layers(self) -> Iterator[str]:
        for layer, roles in self.layers.items():
            yield from (f"{layer} has no {_NAMES[role]}" for role in (_DOWN, _UP) if role not in roles)

    def misfits(self, known: Mapping[str, tuple[Rows, ...]], weights: Shapes) -> Iterator[str]:
        for layer in self.layers:
            if rows := known.get(_flat(layer)):
                yield from self._misshapen(layer, sum(part.count for part in rows), weights[rows[0].weight][1])
            else:
                yield f"the transformer has no layer {layer}"

    def _misshapen(self, layer: str, rows: int, columns: int) -> Iterator[str]:
        """Yield which tensors have another shape than the layer asks for; `down` says what the rank is."""
        down, up = (self._shape(layer, role) for role in (_DOWN, _UP))
        rank = down[0] if down and down[0] else 1
        for role, found, wanted in ((_DOWN, down, (rank, columns)), (_UP, up, (rows, rank))):
            if found != wanted:
                yield f"{self.layers[layer][role]} has the shape {list(found)} instead of {list(wanted)}"
        if (alpha := self.layers[layer].get(_ALPHA)) and self.tensors[alpha].values != 1:
            yield f"{alpha} is not one number"

    def _shape(self, layer: str, role: _Role) -> tuple[int, ...]:
        return self.tensors[self.layers[layer][role]].shape

    def update(self, layer: str, rows: tuple[Rows, ...]) -> LowRankUpdate:
        roles = self.layers[layer]
        return LowRankUpdate(roles[_DOWN], roles[_UP], roles.get(_ALPHA, self.training.alpha_of(_bare(layer))), rows)


def _by_layer(tensors: Iterable[str]) -> dict[str, dict[_Role, str]]:
    """Return the tensors of each layer; those with unknown names are left out."""
    found: dict[str, dict[_Role, str]] = {}
    for name in sorted(tensors):
        for ending, role in _ENDINGS.items():
            if name.endswith(ending) and _PREFIX.match(name):
                found.setdefault(name.removesuffix(ending), {})[role] = name
    return found


def _bare(layer: str) -> str:
    return _PREFIX.sub("", layer)


def _flat(layer: str) -> str:
    """Return a layer's name as kohya's programs write it: without prefix and dots."""
    return _bare(layer).replace(".", "_")


def _known_layers(weights: Shapes) -> Iterator[tuple[str, tuple[Rows, ...]]]:
    """Yield each layer's flat name, and the rows of weights that it stands for."""
    for name in weights:
        if len(weights[name]) == 2:
            yield _flat(name.removesuffix(".weight")), _joined([name], weights)
    for layer, names in _layers_of_authors(weights):
        if weights.keys() >= set(names):
            yield layer, _joined(names, weights)
    layer, weight = _SWAPPED
    if weight in weights:
        yield layer, _swapped(weight, weights[weight][0] // 2)


def _layers_of_authors(weights: Shapes) -> Iterator[tuple[str, list[str]]]:
    """Yield each layer of FLUX's authors that these weights have, and the weights that it stands for."""
    for (theirs, ours), layers in _IN_BLOCKS.items():
        for number in sorted({block[1] for name in weights if (block := re.match(rf"{ours}\.(\d+)\.", name))}):
            for layer, names in layers.items():
                yield f"{theirs}_{number}_{layer}", [f"{ours}.{number}.{name}.weight" for name in names]
    yield from ((layer, [f"{name}.weight"]) for layer, name in _OUTSIDE_BLOCKS.items())


def _joined(names: list[str], weights: Shapes) -> tuple[Rows, ...]:
    """Return the rows of an update to several weights, one after the other."""
    begins = accumulate((weights[name][0] for name in names), initial=0)
    return tuple(Rows(name, begin, 0, weights[name][0]) for name, begin in zip(names, begins, strict=False))


def _swapped(weight: str, half: int) -> tuple[Rows, ...]:
    return Rows(weight, 0, half, half), Rows(weight, half, 0, half)


def _repeated(updates: Iterable[LowRankUpdate]) -> Iterator[str]:
    places = Counter((rows.weight, rows.first) for update in updates for rows in update.rows)
    yield from (f"{weight} is changed twice" for (weight, _), number in places.items() if number > 1)
