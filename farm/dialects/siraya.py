"""Siraya's dialect of `/v1`, for `flux-1-srpo-text-to-image`, after its documentation. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, Literal

from farm.dialects import openai_common
from farm.dialects.answers.images import SirayaImages
from farm.dialects.error_response import ErrorResponse
from farm.dialects.fields import Flag
from farm.dialects.links import Links
from farm.dialects.openai_common import ParsedCall, ResultFormat, SrpoCall
from farm.domain.catalogue import SRPO, TERMS, Acceleration
from farm.domain.errors import FarmError
from farm.domain.job import Job, Result

NAME = "siraya"
#: The HTTP status of an answer with images. Undocumented; all its clients accept this one.
SUCCESS = 200

_TERMS = TERMS[NAME]


class TextToImage(SrpoCall):
    """The body of a call for text to image. `output_format` says how images are carried or how they are encoded."""

    TERMS: ClassVar = _TERMS

    enable_safety_checker: Flag = _TERMS.safety
    acceleration: Acceleration = _TERMS.acceleration
    output_format: Literal["url", "b64_json", "jpeg", "png"] = "url"

    @property
    def result_format(self) -> ResultFormat:
        """The form of the images in the answer: `response_format` decides if it is given."""
        if self.response_format is None and self.output_format == "b64_json":
            return "b64_json"
        return super().result_format

    def requested_size(self) -> tuple[int, int] | None:
        """Return width and height if the call has them: `image_size` wins over `size`. Raises InvalidRequest."""
        in_text = self.size_from_text()
        return self.size_from_sides() or in_text


GENERATES, TAKES = openai_common.generations({SRPO.kind: TextToImage}, NAME, "TextToImage")


def generation(body: Mapping[str, Any], *, default_seed: int) -> ParsedCall:
    """Parse the body of a call; `default_seed` is used if it has no seed. Raises InvalidRequest."""
    model_id = body["model"]
    call = openai_common.parse(TAKES[model_id], body)
    return openai_common.parsed_call(call, GENERATES[model_id], dialect=NAME, default_seed=default_seed)


def answer(job: Job, result: Result, result_format: ResultFormat, links: Links) -> SirayaImages:
    """Build the answer with the images. Raises StorageError and NotFound."""
    revised = openai_common.revised_prompt(job) or ""
    body: SirayaImages = {
        "created": openai_common.created(job),
        "data": [
            {**openai_common.image_data(image, result_format, links), "revised_prompt": revised}
            for image in result.images
        ],
        "seed": job.request.seed,
    }
    if job.request.safety:
        body["has_nsfw_concepts"] = list(result.flagged)
    if result.warnings:
        body["warnings"] = list(result.warnings)
    return body


def error_response(status: int, error: FarmError) -> ErrorResponse:
    """Build the error response of `/v1`, with the HTTP status as its code, as Siraya has it."""
    response = openai_common.error_response(status, error)
    return replace(response, body={**response.body, "error": {**response.body["error"], "code": response.status}})
