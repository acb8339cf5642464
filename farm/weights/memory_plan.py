"""Memory plan: the memory that weights need of a card, and how they are kept so that they fit. Pure: it reads no file
and asks no device.

A device's total memory decides, never what is free of it: the build may not depend on the hour.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from itertools import product
from typing import Literal

from farm.domain.catalogue import MAX_PIXELS
from farm.domain.errors import ConfigurationError

Quantize = Literal["none", "fp8", "auto"]
Offload = Literal["none", "text", "all", "auto"]

#: Bytes that a process takes of a card before any weights: CUDA's context, the libraries' workspaces.
_CONTEXT = 600_000_000
#: Bytes per pixel, in bf16, that the VAE needs at most. ComfyUI reserves as much for this VAE (2178 x 64 bytes and 1767
#: bytes per value); the tensors alone are 1536 and 1280 bytes (tests/unit/weights/test_memory_plan.py), the rest is for
#: the kernels of convolutions.
_DECODE, _ENCODE = 4356, 3534
#: The same per token of the transformer: its tensors are 111 kB, and a third more.
_DENOISE = 148_000
#: Pixels that one token stands for, and the tokens of a prompt.
_PIXELS_PER_TOKEN, _TEXT_TOKENS = 256, 512
#: Input images of Kontext, and pixels of each.
_KONTEXT_INPUTS, _KONTEXT_PIXELS = 4, 2**20
#: Share of an offloaded model that is on the card at once: the block that computes, the next one, and the outer layers.
_IN_FLIGHT = 1 / 8
#: Sides in pixels of the tiles in which the VAE works where it cannot work on whole images. No preset of SRPO is larger
#: than the first.
TILES = (None, 1024, 512)


@dataclass(frozen=True, slots=True)
class Footprint:
    """Numbers of values in the weights, by what may be done with them.

    `blocks`: the transformers' layers that may be kept in fp8; `others`: the rest of them; `stored_bytes`: bytes of
    transformers whose file fixes their number format; `text_encoder`: T5; `small`: CLIP and the VAE.
    """

    blocks: int = 0
    others: int = 0
    stored_bytes: int = 0
    text_encoder: int = 0
    small: int = 0
    has_kontext: bool = False

    def __add__(self, other: Footprint) -> Footprint:
        return Footprint(
            self.blocks + other.blocks,
            self.others + other.others,
            self.stored_bytes + other.stored_bytes,
            self.text_encoder + other.text_encoder,
            self.small + other.small,
            self.has_kontext or other.has_kontext,
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """A device's memory: its name, its total in bytes, and the bytes of a value in its number format."""

    device: str
    total: int
    value_bytes: int = 2
    can_offload: bool = True


@dataclass(frozen=True, slots=True)
class Choice:
    """The operator's choice (FARM_QUANTIZE, FARM_OFFLOAD)."""

    quantize: Quantize = "auto"
    offload: Offload = "auto"

    def __str__(self) -> str:
        return f"FARM_QUANTIZE={self.quantize} FARM_OFFLOAD={self.offload}"


#: What is done without any choice.
AUTO = Choice()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """Number formats and places of weights, which are part of the build.

    `quantize`: the number format of the transformers' blocks. `offload`: what stays in the machine's memory and passes
    through the card block by block. `tile`: the side of the VAE's tiles in pixels, or None for whole images.
    """

    quantize: Literal["none", "fp8"] = "none"
    offload: Literal["none", "text", "all"] = "none"
    tile: int | None = None

    def __str__(self) -> str:
        kept = {"none": "", "text": ", T5 offloaded", "all": ", T5 and transformers offloaded"}[self.offload]
        tiles = f", VAE in tiles of {self.tile} px" if self.tile else ""
        return f"transformer in {'fp8' if self.quantize == 'fp8' else 'full'}{kept}{tiles}"


def plan_for(footprint: Footprint, memory: Memory, choice: Choice) -> MemoryPlan:
    """Return the first plan that fits, best quality first. Raises ConfigurationError if none does."""
    plan = _fitting(footprint, memory, choice)
    if plan is None:
        raise ConfigurationError(_shortage(footprint, memory, choice))
    return plan


def needed(footprint: Footprint, plan: MemoryPlan, value_bytes: int) -> int:
    """Return the bytes that a device needs for these weights and the largest image."""
    # T5, the transformer and the VAE work one after another.
    encoding = _in_flight(_text_encoder(footprint, value_bytes)) if plan.offload != "none" else 0
    denoising = _denoising(footprint, value_bytes)
    if plan.offload == "all":
        denoising += _in_flight(_transformers(footprint, plan, value_bytes))
    working = max(encoding, denoising, _coding(plan.tile, value_bytes))
    return _CONTEXT + resident(footprint, plan, value_bytes) + working


def resident(footprint: Footprint, plan: MemoryPlan, value_bytes: int) -> int:
    """Return the bytes of the weights that stay on the device."""
    found = footprint.small * value_bytes
    if plan.offload != "all":
        found += _transformers(footprint, plan, value_bytes)
    if plan.offload == "none":
        found += _text_encoder(footprint, value_bytes)
    return found


def fits_with_copy(footprint: Footprint, plan: MemoryPlan, memory: Memory) -> bool:
    """Return True if the transformers' blocks fit a second time, in fp8, beside weights that are all kept in full."""
    is_full = plan.quantize == "none" and plan.offload != "all" and not footprint.stored_bytes
    return is_full and needed(footprint, plan, memory.value_bytes) + copy_bytes(footprint) <= memory.total


def copy_bytes(footprint: Footprint) -> int:
    """Return the bytes of a copy in fp8 of the transformers' blocks."""
    return footprint.blocks


def gigabytes(count: int) -> str:
    """Return a number of bytes for a person."""
    return f"{count / 1e9:,.1f} GB"


def _candidates(choice: Choice, memory: Memory) -> Iterator[MemoryPlan]:
    """Yield the plans that the choice allows: whole images before tiles, T5 on the card before T5 beside it."""
    formats: tuple[Literal["none", "fp8"], ...] = ("none", "fp8") if choice.quantize == "auto" else (choice.quantize,)
    kept: tuple[Literal["none", "text", "all"], ...] = (
        ("none",) if not memory.can_offload else ("none", "text") if choice.offload == "auto" else (choice.offload,)
    )
    for number_format, tile, offload in product(formats, TILES, kept):
        yield MemoryPlan(number_format, offload, tile)


def _transformers(footprint: Footprint, plan: MemoryPlan, value_bytes: int) -> int:
    block_bytes = 1 if plan.quantize == "fp8" else value_bytes
    return footprint.blocks * block_bytes + footprint.others * value_bytes + footprint.stored_bytes


def _text_encoder(footprint: Footprint, value_bytes: int) -> int:
    return footprint.text_encoder * value_bytes


def _in_flight(model_bytes: int) -> int:
    """Return the bytes of an offloaded model that are on the card at once."""
    return int(model_bytes * _IN_FLIGHT)


def _denoising(footprint: Footprint, value_bytes: int) -> int:
    pixels = MAX_PIXELS + (_KONTEXT_INPUTS * _KONTEXT_PIXELS if footprint.has_kontext else 0)
    return (pixels // _PIXELS_PER_TOKEN + _TEXT_TOKENS) * _DENOISE * value_bytes // 2


def _coding(tile: int | None, value_bytes: int) -> int:
    """Return the bytes that the VAE needs for the largest image, whole or in tiles."""
    pixels = min(MAX_PIXELS, tile**2) if tile else MAX_PIXELS
    return pixels * max(_DECODE, _ENCODE) * value_bytes // 2


def _fitting(footprint: Footprint, memory: Memory, choice: Choice) -> MemoryPlan | None:
    fitting = (p for p in _candidates(choice, memory) if needed(footprint, p, memory.value_bytes) <= memory.total)
    return next(fitting, None)


def _minimum(footprint: Footprint, memory: Memory, choice: Choice) -> str:
    return gigabytes(min(needed(footprint, plan, memory.value_bytes) for plan in _candidates(choice, memory)))


def _shortage(footprint: Footprint, memory: Memory, choice: Choice) -> str:
    """Return what is needed, what is there, and what helps."""
    return (
        f"These weights need {_minimum(footprint, memory, choice)} with {choice}, and {memory.device} has "
        f"{gigabytes(memory.total)}; {_remedy(footprint, memory, choice)}"
    )


def _remedy(footprint: Footprint, memory: Memory, choice: Choice) -> str:
    for other in _other_choices(choice):
        if plan := _fitting(footprint, memory, other):
            return f"{other} needs {gigabytes(needed(footprint, plan, memory.value_bytes))} ({plan})"
    minimum = _minimum(footprint, memory, Choice("auto", "all"))
    return f"take smaller weights, such as a GGUF file (docs/cards.md), or a card of {minimum} or more"


def _other_choices(choice: Choice) -> Iterator[Choice]:
    """Yield what else could be chosen, the least change first."""
    yield replace(choice, quantize="auto")
    yield replace(choice, offload="auto")
    yield Choice("auto", "auto")
    yield Choice("auto", "all")
