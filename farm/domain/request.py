"""The request: the validated parameters of a job, the same for every dialect. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from farm.domain.acceleration import BUNDLED
from farm.domain.catalogue import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_INPUTS,
    MAX_JPEG_QUALITY,
    MAX_PROMPT,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    SAFETY_TOLERANCE,
    SEEDS,
    TOKEN_SIDE,
    Acceleration,
    OutputFormat,
)
from farm.domain.scheduling import cost_of

#: The priorities that callers may set.
Priority = Literal["normal", "low"]
#: Where the size comes from. `asked`: the request. `input`: the first input's own size, within the limits. `ratio`: of
#: the model's sizes, the one whose ratio is nearest to the first input's.
Sizing = Literal["asked", "input", "ratio"]


def count_denoising_steps(steps: int, strength: float | None) -> int:
    """Return the number of denoising steps: image to image skips the first ones, as in diffusers' FLUX pipeline."""
    return steps if strength is None else steps - int(steps - min(steps * strength, steps))


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image of a request: everything that determines its pixels, except the build."""

    model: str
    prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    acceleration: Acceleration = "none"
    #: Image to image: how much to change the input, 0–1. None: denoising starts from pure noise.
    strength: float | None = None
    #: Storage keys of the input images.
    inputs: tuple[str, ...] = ()

    @property
    def denoising_steps(self) -> int:
        """Denoising steps of this image."""
        return count_denoising_steps(self.steps, self.strength)


class Request(BaseModel):
    """The parameters of a job. Sizes in pixels; `seed` is the first image's, the others count up from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    #: Empty once it was removed at the caller's wish (`Conditions.keeps_payload`).
    prompt: Annotated[str, Field(max_length=MAX_PROMPT)]
    width: Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
    height: Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    guidance: Annotated[float, Field(ge=1, le=MAX_GUIDANCE)]
    seed: Annotated[int, Field(ge=0, lt=SEEDS)]
    images: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    acceleration: Acceleration = "none"
    output_format: OutputFormat = "jpeg"
    jpeg_quality: Annotated[int, Field(ge=1, le=MAX_JPEG_QUALITY)] = MAX_JPEG_QUALITY
    safety: bool = True
    #: How strict the safety checker is, 1 (strictest) to 6. It never turns the check off.
    safety_tolerance: Annotated[int, Field(ge=SAFETY_TOLERANCE.min, le=SAFETY_TOLERANCE.max)] = SAFETY_TOLERANCE.default
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    #: The input images that the caller named, as URLs or storage keys. Preparation replaces those that came with the
    #: submit itself by the farm's own copies.
    sources: Annotated[tuple[str, ...], Field(max_length=MAX_INPUTS)] = ()
    #: The field of the submit that named each of them.
    source_fields: Annotated[tuple[str, ...], Field(max_length=MAX_INPUTS)] = ()
    #: Storage keys of the farm's own copies, once the job is prepared: checked, upright, sRGB.
    inputs: Annotated[tuple[str, ...], Field(max_length=MAX_INPUTS)] = ()
    #: If not `asked`, width and height are an estimate until the job is prepared.
    sizing: Sizing = "asked"
    #: The size of the delivered images if the model cannot render it: the rendered ones are scaled and cropped to it.
    output_size: tuple[int, int] | None = None
    #: True until the prompt enhancer has rewritten the prompt; the caller's own is the original prompt then.
    enhance: bool = False
    original_prompt: str | None = None
    #: Warnings that the result contains.
    notes: tuple[str, ...] = ()

    @property
    def needs_preparation(self) -> bool:
        """True while inputs are to be fetched or the prompt is to be enhanced: the job is not queued for a GPU yet."""
        return self.enhance or len(self.inputs) < len(self.sources)

    @property
    def batch_key(self) -> str:
        """The key that jobs of one batch have in common: the model, and the size on the grid of its tokens."""
        columns, rows = -(-self.width // TOKEN_SIDE), -(-self.height // TOKEN_SIDE)
        return f"{self.model}:{columns}x{rows}"

    @property
    def cost(self) -> float:
        """Predicted work (`scheduling.cost_of`); full steps are those of the bundled masks, on every farm."""
        return cost_of(
            images=self.images,
            pixels=self.width * self.height,
            full_steps=BUNDLED.full_steps(self.acceleration, self.denoising_steps),
            # Image to image begins with its input; other models read theirs at each step.
            inputs=len(self.sources) if self.strength is None else 0,
        )

    @property
    def denoising_steps(self) -> int:
        """Denoising steps of each image."""
        return count_denoising_steps(self.steps, self.strength)

    def image(self, number: int) -> ImageRequest:
        """Return the `number`-th image, counted from 0."""
        return ImageRequest(
            model=self.model,
            prompt=self.prompt,
            width=self.width,
            height=self.height,
            steps=self.steps,
            guidance=self.guidance,
            seed=(self.seed + number) % SEEDS,
            acceleration=self.acceleration,
            strength=self.strength,
            inputs=self.inputs,
        )
