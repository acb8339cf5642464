"""Images and candidates of `farm weights calibrate`. Pure."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, model_validator

from farm.domain.acceleration import MAX_ORDER, MIN_FULL_STEPS, Mask
from farm.domain.catalogue import MAX_PROMPT, MAX_SIDE, MAX_STEPS, MIN_SIDE, SEEDS

Side = Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]


class Calibration(BaseModel):
    """The images that are compared, and the candidates beside the usual ones.

    `checked_steps`: further numbers of steps at which the chosen levels are measured. `masks`: of `steps` digits each.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    images: Annotated[int, Field(ge=1, le=1000)] = 24
    width: Side = 512
    height: Side = 512
    steps: Annotated[int, Field(ge=6, le=MAX_STEPS)] = 28
    seed: Annotated[int, Field(ge=0, lt=SEEDS)] = 0
    orders: Annotated[tuple[Annotated[int, Field(ge=0, le=MAX_ORDER)], ...], Field(min_length=1)] = (1, 2)
    masks: tuple[Mask, ...] = ()
    checked_steps: tuple[Annotated[int, Field(ge=1, le=MAX_STEPS)], ...] = ()
    #: Empty: the command's own.
    prompts: tuple[Annotated[str, Field(min_length=1, max_length=MAX_PROMPT)], ...] = ()
    out: Path
    #: A file for an image of the levels side by side.
    grid: Path | None = None

    @model_validator(mode="after")
    def _check_masks(self) -> Calibration:
        for mask in self.masks:
            if len(mask) != self.steps or mask.count("1") < MIN_FULL_STEPS:
                raise ValueError(
                    f"a mask has a digit for each of {self.steps} steps, at least {MIN_FULL_STEPS} full ones"
                )
        return self
