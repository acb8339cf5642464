"""What a caller asks for, after its dialect was understood: validated, dialect-neutral, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from farm.domain.catalogue import (
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_INPUTS,
    MAX_PROMPT,
    MAX_SIDE,
    MAX_STEPS,
    MIN_SIDE,
    SAFETY_TOLERANCE,
    SEEDS,
    Acceleration,
    OutputFormat,
)

Priority = Literal["normal", "low"]
#: `asked`: the request says it. `input`: the first input's own, within the limits. `ratio`: of the sizes that Kontext
#: was trained with, the one whose ratio is nearest to the first input's.
Sizing = Literal["asked", "input", "ratio"]


def steps_done(steps: int, strength: float | None) -> int:
    """How many of the steps are done: image to image skips the first. Source: diffusers' FLUX image to image."""
    return steps if strength is None else steps - int(steps - min(steps * strength, steps))


@dataclass(frozen=True, slots=True)
class ImageRequest:
    """One image of a request: all that decides its pixels, beside the build."""

    model: str
    prompt: str
    width: int
    height: int
    steps: int
    guidance: float
    seed: int
    acceleration: Acceleration = "none"
    #: How far from the (first) input to go, 0–1: image to image. None: the image begins from noise alone.
    strength: float | None = None
    #: Images to begin from or to be guided by: their keys in storage.
    inputs: tuple[str, ...] = ()

    @property
    def denoising_steps(self) -> int:
        """Steps that are done."""
        return steps_done(self.steps, self.strength)


class Request(BaseModel):
    """The parameters of a job. Sizes in pixels; `seed` belongs to the first image, the others count up from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    #: Empty once it was forgotten because its caller wished so.
    prompt: Annotated[str, Field(max_length=MAX_PROMPT)]
    width: Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
    height: Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)]
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)]
    guidance: Annotated[float, Field(ge=1, le=MAX_GUIDANCE)]
    seed: Annotated[int, Field(ge=0, lt=SEEDS)]
    images: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    acceleration: Acceleration = "none"
    output_format: OutputFormat = "jpeg"
    safety: bool = True
    #: How strict the checker is, 1 (strictest) to 6. It never turns the check off.
    safety_tolerance: Annotated[int, Field(ge=SAFETY_TOLERANCE.min, le=SAFETY_TOLERANCE.max)] = SAFETY_TOLERANCE.default
    strength: Annotated[float, Field(ge=0, le=1)] | None = None
    #: What the caller named as images, as URLs or keys in storage; and, once the job is prepared, the farm's own
    #: copies of them: checked, upright, sRGB.
    sources: Annotated[tuple[str, ...], Field(max_length=MAX_INPUTS)] = ()
    #: Where the caller named each of them, in its dialect's words.
    source_fields: Annotated[tuple[str, ...], Field(max_length=MAX_INPUTS)] = ()
    inputs: Annotated[tuple[str, ...], Field(max_length=MAX_INPUTS)] = ()
    #: Where the size comes from. Until the job is prepared, width and height are a guess then.
    sizing: Sizing = "asked"
    #: Whether the prompt is still to be rewritten; and, once it was, what the caller wrote.
    enhance: bool = False
    original_prompt: str | None = None
    #: What the caller is told with the result.
    notes: tuple[str, ...] = ()

    @property
    def needs_preparation(self) -> bool:
        """Whether something is to be done before it may stand in the line for a GPU."""
        return self.enhance or len(self.inputs) < len(self.sources)

    @property
    def batch_key(self) -> str:
        """Jobs with the same key may share a batch."""
        return f"{self.model}:{self.width}x{self.height}:{self.acceleration}"

    @property
    def cost(self) -> float:
        """Work asked for, in image × megapixel × steps: what a caller's turn is charged with."""
        return self.images * self.width * self.height / 1e6 * max(1, self.denoising_steps)

    @property
    def denoising_steps(self) -> int:
        """Steps that are done for each image."""
        return steps_done(self.steps, self.strength)

    def image(self, number: int) -> ImageRequest:
        """The `number`-th image, counted from 0."""
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
