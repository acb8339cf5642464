"""WaveSpeed's dialect, version 3: submit and result. Facts from its public pages and its SDKs. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from farm import clock
from farm.dialects.fields import Guidance, Input, Number, OffOnly, Prompt, Steps, Whole, parse
from farm.errors import FarmError, InvalidRequest, Problem
from farm.job import Job, State
from farm.request import OutputFormat, Request

MIN_SIDE = 256
MAX_SIDE = 1536
DEFAULT_SIDE = 1024

#: Tolerated without effect on text to image, because the page's own example sends it. It is range-checked.
TOLERATED = ("strength",)

#: WaveSpeed's own error numbers, in `data.code`.
MISSING_PARAMETER = 1400
INVALID_PARAMETER = 1401
EXECUTION_FAILED = 1403
INTERNAL = 5000
UNAVAILABLE = 5003

_SIZE = re.compile(r"(\d{1,5})\*(\d{1,5})")

Side = Annotated[Whole, Field(ge=MIN_SIDE, le=MAX_SIDE)]


class TextToImageInput(Input):
    """The body of a submit for text to image. One picture a prediction; it is always checked."""

    prompt: Prompt
    size: str | None = None
    width: Side | None = None
    height: Side | None = None
    strength: Annotated[Number, Field(ge=0, le=1)] | None = None
    num_inference_steps: Steps = 28
    seed: Annotated[Whole, Field(ge=-1, le=2**31 - 1)] = -1
    guidance_scale: Guidance = 3.5
    output_format: OutputFormat = "jpeg"
    enable_base64_output: OffOnly = False
    enable_sync_mode: OffOnly = False
    enhance_prompt: OffOnly = False


def read(body: Mapping[str, Any], *, model: str, spare_seed: int) -> Request:
    """A submit's body as a request for `model`. `spare_seed` is taken for the seed −1."""
    fields = parse(TextToImageInput, body)
    width, height = _pixels(fields)
    return Request(
        model=model,
        prompt=fields.prompt,
        width=width,
        height=height,
        steps=fields.num_inference_steps,
        guidance=fields.guidance_scale,
        seed=spare_seed if fields.seed == -1 else fields.seed,
        output_format=fields.output_format,
    )


def _pixels(fields: TextToImageInput) -> tuple[int, int]:
    """Width and height from `size`, from the two sides, or from both where they agree."""
    sides = (fields.width or DEFAULT_SIDE, fields.height or DEFAULT_SIDE)
    if fields.size is None:
        return sides
    match = _SIZE.fullmatch(fields.size)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(MIN_SIDE <= side <= MAX_SIDE for side in size):
        message = f"'{fields.size[:40]}' is no size; allowed: \"W*H\" with {MIN_SIDE}–{MAX_SIDE} pixels a side"
        raise InvalidRequest([Problem("size", message, "size_parsing", fields.size)])
    given = [(fields.width, size[0]), (fields.height, size[1])]
    if any(side is not None and side != wanted for side, wanted in given):
        message = f"'{fields.size}' disagrees with width and height; send one of the two"
        raise InvalidRequest([Problem("size", message, "size_conflict", fields.size)])
    return size


def envelope(data: Mapping[str, Any]) -> dict[str, Any]:
    """What every good answer comes in."""
    return {"code": 200, "message": "success", "data": dict(data)}


def prediction(job: Job, base: str) -> dict[str, Any]:
    """A job as a prediction. Times in milliseconds; a failed one is told by `status`, `error` and `code`."""
    result = job.result
    failed = job.state is State.FAILED
    milliseconds = round(result.timings["inference"] * 1000) if result else 0
    return {
        "id": job.id,
        "model": job.endpoint,
        "status": job.state.value,
        "code": _failure_number(job.code) if failed else 0,
        "error": job.error if failed else "",
        "outputs": [f"{base}/files/{image.key}" for image in result.images] if result else [],
        "urls": {"get": f"{base}/api/v3/predictions/{job.id}/result"},
        "has_nsfw_contents": list(result.flagged) if result else [],
        "seed": job.request.seed,
        "created_at": clock.iso(job.created_us, timespec="milliseconds"),
        "timings": {"inference": milliseconds},
        "executionTime": milliseconds,
    }


def _failure_number(code: str) -> int:
    return INTERNAL if code in ("internal_error", "attempts_exhausted") else EXECUTION_FAILED


def problem(status: int, error: FarmError) -> dict[str, Any]:
    """An error of the gateway: `code` repeats the HTTP status, `data.code` is WaveSpeed's own number."""
    return {
        "code": status,
        "message": str(error),
        "error_code": error.code,
        "data": {"code": _error_number(status, error), "error": str(error)},
    }


def _error_number(status: int, error: FarmError) -> int:
    if isinstance(error, InvalidRequest):
        missing = all(item.kind == "missing" for item in error.problems)
        return MISSING_PARAMETER if missing else INVALID_PARAMETER
    if status in (429, 503):
        return UNAVAILABLE
    return INTERNAL if status >= 500 else INVALID_PARAMETER
