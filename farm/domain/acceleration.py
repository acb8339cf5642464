"""Levels of acceleration: at which denoising steps the transformer runs, by level and number of steps alone. Pure.

At a full step it does. At a skipped one the pipeline extrapolates the velocity that it would have computed.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farm.domain.catalogue import MAX_STEPS, Acceleration

#: Below so many steps a level skips none: fewer full ones would be worse than fewer steps.
MIN_FULL_STEPS = 5
#: Highest degree of the polynomial that extrapolates.
MAX_ORDER = 2

_SKIPPING: tuple[Acceleration, ...] = ("regular", "high")

Mask = Annotated[str, Field(pattern="^1([01]*1)?$")]


class Level(BaseModel):
    """One level: the degree of its polynomial (`order`), and masks with a digit per denoising step, 1 for a full one.

    `masks` has at least one; for any other number of steps, the mask of the nearest number is stretched. `quantize`:
    `fp8` computes it with a copy of the transformer in fp8, on a card that multiplies in fp8 and has memory for both.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    order: Annotated[int, Field(ge=0, le=MAX_ORDER)]
    masks: Annotated[Mapping[Annotated[int, Field(ge=1, le=MAX_STEPS)], Mask], Field(min_length=1)]
    quantize: Literal["none", "fp8"] = "none"

    @model_validator(mode="after")
    def _check_masks(self) -> Level:
        for steps, mask in self.masks.items():
            if len(mask) != steps:
                raise ValueError(f"the mask for {steps} steps has {len(mask)} digits")
            if mask.count("1") < min(steps, MIN_FULL_STEPS):
                raise ValueError(f"the mask for {steps} steps has fewer than {MIN_FULL_STEPS} full ones")
        return self

    def mask(self, steps: int) -> str:
        """Return the mask of so many denoising steps; the first and the last step are full ones."""
        nearest = min(self.masks, key=lambda known: abs(known - steps))
        return self.masks[nearest] if nearest == steps else stretched(self.masks[nearest], steps)


class Levels(BaseModel):
    """Meaning of each level. `source` says how it was chosen: the command, the weights and the figures."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    source: str
    regular: Level
    high: Level

    def level(self, acceleration: Acceleration) -> Level:
        """Return the level of this name."""
        return {"none": _NONE, "regular": self.regular, "high": self.high}[acceleration]

    def table(self) -> str:
        """Return a line for each level and number of steps: all of the levels that determines pixels."""
        return "\n".join(
            f"{name} {self.level(name).quantize} {self.level(name).order} {self.level(name).mask(steps)}"
            for name in _SKIPPING
            for steps in range(1, MAX_STEPS + 1)
        )

    @property
    def in_fp8(self) -> tuple[Acceleration, ...]:
        """The levels whose transformer is a copy in fp8."""
        return tuple(name for name in _SKIPPING if self.level(name).quantize == "fp8")

    def full_steps(self, acceleration: Acceleration, steps: int) -> int:
        """Return how many of so many denoising steps are full ones."""
        if acceleration == "none":
            return steps
        return self.level(acceleration).mask(steps).count("1")


@cache
def stretched(mask: str, steps: int) -> str:
    """Return a mask of `steps` digits with the same share of full steps, which lie where they lie in `mask`.

    The share is rounded, and not below `MIN_FULL_STEPS`. If the first two steps are full in `mask`, they are full here,
    too: without the second one, the first extrapolation would know one velocity only. The other full steps keep their
    relative positions, interpolated where there are more or fewer, and are moved as little as their order needs.
    """
    known = [position for position, digit in enumerate(mask) if digit == "1"]
    count = min(steps, max(MIN_FULL_STEPS, _rounded(steps * len(known) / len(mask))))
    if count == steps:
        return "1" * steps
    first = 1 if mask.startswith("11") else 0
    scale = (steps - 1 - first) / (len(mask) - 1 - first)
    full = list(range(first + 1))
    for number in range(first + 1, count):
        position = _interpolated(known[first:], (number - first) / (count - 1 - first))
        moved = _rounded(first + (position - first) * scale)
        full.append(min(max(moved, full[-1] + 1), steps - count + number))
    return "".join("1" if step in full else "0" for step in range(steps))


def _interpolated(values: list[int], share: float) -> float:
    """Return the value at this share, from 0 to 1, of the way through `values`."""
    place = share * (len(values) - 1)
    low = min(int(place), len(values) - 2)
    return values[low] + (place - low) * (values[low + 1] - values[low])


def _rounded(value: float) -> int:
    return int(value + 0.5)


_NONE = Level(order=0, masks={1: "1"})

#: The levels of a farm without a file of its own (`FARM_STEP_MASKS`).
BUNDLED = Levels(
    source="the miniature, images of 512x512 with 28 steps; docs/acceleration.md has command and figures",
    regular=Level(order=2, masks={28: "1111110101001001001001000101"}),
    high=Level(order=2, masks={28: "1100010010010010001001001001"}),
)
