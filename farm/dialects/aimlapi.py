"""AI/ML API's dialect of `/v1`, for `flux/srpo`, after its documentation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar

from pydantic import Field

from farm.dialects import openai_common
from farm.dialects.answers.images import AimlapiImage, AimlapiImages
from farm.dialects.fields import Flag, Whole
from farm.dialects.links import Links
from farm.dialects.openai_common import ParsedCall, ResultFormat, Sides, SrpoCall
from farm.domain.catalogue import SRPO, TERMS, Acceleration, OutputFormat
from farm.domain.errors import InvalidRequest, Problem
from farm.domain.job import Image, Job, Result
from farm.domain.request import Request

NAME = "aimlapi"
#: The HTTP status of an answer with images.
SUCCESS = 201

_TERMS = TERMS[NAME]

#: Tokens per image and started mebipixel. Source: the example on its page, 1440×512.
TOKENS_PER_MEBIPIXEL = 52_500


class TextToImage(SrpoCall):
    """The body of a call for text to image."""

    TERMS: ClassVar = _TERMS

    seed: Annotated[Whole, Field(ge=_TERMS.min_seed, lt=_TERMS.max_seed + 1)] | None = None
    output_format: OutputFormat = _TERMS.output_format
    enable_safety_checker: Flag = _TERMS.safety
    acceleration: Acceleration = _TERMS.acceleration

    def size_from_sides(self) -> tuple[int, int] | None:
        """Return the size in `image_size`, where neither side has a default. Raises InvalidRequest."""
        if isinstance(self.image_size, Sides):
            sides = {"width": self.image_size.width, "height": self.image_size.height}
            missing = [name for name, side in sides.items() if side is None]
            if missing:
                raise InvalidRequest(
                    [Problem(f"image_size.{name}", "this field is required", "missing") for name in missing]
                )
        return super().size_from_sides()


GENERATES, TAKES = openai_common.generations({SRPO.kind: TextToImage}, NAME, "TextToImage")


def generation(body: Mapping[str, Any], *, default_seed: int) -> ParsedCall:
    """Parse the body of a call; `default_seed` is used if it has no seed. Raises InvalidRequest."""
    model_id = body["model"]
    call = openai_common.parse(TAKES[model_id], body)
    return openai_common.parsed_call(call, GENERATES[model_id], dialect=NAME, default_seed=default_seed)


def answer(job: Job, result: Result, result_format: ResultFormat, links: Links) -> AimlapiImages:
    """Build the answer with the images. Raises StorageError and NotFound."""
    images = [_image(image, result_format, links) for image in result.images]
    body: AimlapiImages = {
        "images": images,
        "timings": {"inference": result.timings["inference"]},
        "seed": job.request.seed,
        "has_nsfw_concepts": list(result.flagged),
        "prompt": job.request.prompt,
        "data": images,
        "meta": {"usage": {"tokens_used": tokens(job.request)}},
    }
    if result.warnings:
        body["warnings"] = list(result.warnings)
    return body


def _image(image: Image, result_format: ResultFormat, links: Links) -> AimlapiImage:
    return {
        **openai_common.image_data(image, result_format, links),
        "width": image.width,
        "height": image.height,
        "content_type": image.content_type,
    }


def tokens(request: Request) -> int:
    """Return the tokens that AI/ML API would bill: by image, for each started mebipixel."""
    mebipixels = -(-request.width * request.height // 2**20)
    return TOKENS_PER_MEBIPIXEL * request.images * mebipixels
