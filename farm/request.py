"""What a caller asks for, after its dialect was understood: validated, dialect-neutral, and nothing else."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

Acceleration = Literal["none", "regular", "high"]
OutputFormat = Literal["jpeg", "png"]
Priority = Literal["normal", "low"]

#: Seeds are unsigned 32-bit numbers; the seeds of a request's later images wrap around there.
SEEDS = 2**32
#: Random seeds are drawn from 1 up to this one, because every dialect accepts it back.
MAX_RANDOM_SEED = 2**31 - 4


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


class Request(BaseModel):
    """The parameters of a job. Sizes in pixels; `seed` belongs to the first image, the others count up from it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    model: str
    prompt: Annotated[str, Field(min_length=1, max_length=4000)]
    width: Annotated[int, Field(ge=256, le=2560)]
    height: Annotated[int, Field(ge=256, le=2560)]
    steps: Annotated[int, Field(ge=1, le=50)]
    guidance: Annotated[float, Field(ge=1, le=20)]
    seed: Annotated[int, Field(ge=0, lt=SEEDS)]
    images: Annotated[int, Field(ge=1, le=4)] = 1
    acceleration: Acceleration = "none"
    output_format: OutputFormat = "jpeg"
    safety: bool = True

    @property
    def batch_key(self) -> str:
        """Jobs with the same key may share a batch."""
        return f"{self.model}:{self.width}x{self.height}:{self.acceleration}"

    @property
    def cost(self) -> float:
        """Work asked for, in image × megapixel × steps: what a caller's turn is charged with."""
        return self.images * self.width * self.height / 1e6 * self.steps

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
        )
