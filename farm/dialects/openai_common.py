"""What the dialects at `/v1` have in common: names of parameters, how images are carried, errors. Pure.

The id of the model decides which of them is spoken. Callers reach all three through OpenAI's libraries, so each takes
OpenAI's names beside its own, and the farm's own parameters under fal's names; its limits and defaults hold.
"""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Annotated, Any, ClassVar, Literal, Protocol, TypeVar

from pydantic import BeforeValidator, Discriminator, Field, Tag

from farm import clock
from farm.dialects import fields
from farm.dialects.answers.images import CallFacts, ErrorBody, ImageData
from farm.dialects.error_response import ErrorResponse
from farm.dialects.fields import (
    PRESET,
    SIDES,
    AspectRatio,
    Count,
    Flag,
    Input,
    Number,
    OffOnly,
    Preset,
    Prompt,
    SafetyTolerance,
    Seed,
    Whole,
)
from farm.dialects.links import Links
from farm.domain.catalogue import (
    KONTEXT_SIZES,
    MAX_INPUTS,
    MAX_PIXELS,
    MODELS,
    SAFETY_TOLERANCE,
    SIZE_PRESETS,
    Acceleration,
    DialectTerms,
    Kind,
    Model,
    OutputFormat,
    SideLimits,
)
from farm.domain.error_codes import JOB_FAILURES, Code, job_failure
from farm.domain.errors import FarmError, InvalidRequest, Problem, UnknownModel
from farm.domain.job import Image, Job, Order, Result
from farm.domain.request import Request

C = TypeVar("C", bound="Call")
T = TypeVar("T")

#: Taken without effect, each for its reason. Of those with several values, only the ones that ask for what is done
#: anyway are taken.
TOLERATED = {
    "user": "a label of the caller's own end user; nothing here depends on it",
    "safety_identifier": "likewise",
    "quality": "OpenAI's libraries send it: 'auto' and 'standard' are what num_inference_steps stands for",
    "background": "'auto' and 'opaque' are what every image has",
    "moderation": "'auto' is what enable_safety_checker stands for",
    "stream": "false is how every call is answered",
    "partial_images": "0 is how many are sent",
}
#: OpenAI's parameters that nothing here could honour, each with what to do instead.
REFUSED = {
    "style": "say it in the prompt",
    "output_compression": "choose output_format png for an image without loss",
    "input_fidelity": "strength and guidance_scale say how close to the image to stay",
    "mask": "say in the prompt what is to change, with the model 'kontext'",
    "markup": "say in the prompt what is to change, with the model 'kontext'",
    "complexity": "choose num_inference_steps",
    "frame_count": "images do not move here",
    "frame_duration_ms": "images do not move here",
    "svg": "choose output_format png or jpeg",
}
#: What a form, which has only text, says as JSON: numbers and switches.
NO_TEXTS = frozenset(
    {
        "n",
        "num_images",
        "seed",
        "num_inference_steps",
        "guidance_scale",
        "strength",
        "enable_safety_checker",
        "sync_mode",
        "enhance_prompt",
        "stream",
        "partial_images",
    }
)

#: What the providers' default level of acceleration means until it works, and what who asks for it by name is told.
REGULAR_MEANS: Acceleration = "none"
_REGULAR_NOTE = "acceleration 'regular' does not work on this farm yet; this was computed in full."

#: How an answer carries an image: its URL, the bytes in the URL's place, or the bytes in a field of their own.
ResultFormat = Literal["url", "data", "b64_json"]

#: OpenAI's types of errors by HTTP status, below 500; `invalid_request_error` for any other.
_TYPES = {403: "permission_error", 429: "rate_limit_error"}

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)
_SHOWN = 40


class Sides(Input):
    """A size in pixels; which sides are allowed, the dialect says."""

    width: Whole | None = None
    height: Whole | None = None


def _branch(value: object) -> str:
    return SIDES if isinstance(value, dict | Sides) else PRESET


ImageSize = Annotated[Annotated[Preset, Tag(PRESET)] | Annotated[Sides, Tag(SIDES)], Discriminator(_branch)]


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A call as its dialect understood it: what it orders, and how the answer carries the images."""

    order: Order
    result_format: ResultFormat


class ImagesDialect(Protocol):
    """A module that speaks one of the dialects: its models by their ids, and what a call for each of them takes.

    Edits are OpenAI's own call; nobody words it otherwise.
    """

    NAME: str
    SUCCESS: int
    GENERATES: Mapping[str, Model]
    TAKES: Mapping[str, type[Call]]

    def generation(self, body: Mapping[str, Any], *, default_seed: int) -> ParsedCall: ...

    def answer(self, job: Job, result: Result, result_format: ResultFormat, links: Links) -> Mapping[str, Any]: ...


class Call(Input):
    """What every call may say. Null means: not given."""

    model: str
    prompt: Prompt
    n: Count | None = None
    num_images: Count | None = None
    seed: Seed | None = None
    output_format: str
    response_format: Literal["url", "b64_json"] | None = None
    sync_mode: Flag = False
    enhance_prompt: Flag = False
    user: str | None = None
    safety_identifier: str | None = None
    quality: Literal["auto", "standard"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto"] | None = None
    stream: OffOnly = False
    partial_images: Annotated[Whole, Field(ge=0, le=0)] = 0

    def request(self, model: Model, *, default_seed: int) -> Request:
        """The same, dialect-neutral. `default_seed` is taken where the caller gives none. Raises InvalidRequest."""
        if self.sync_mode and self.response_format == "url":
            raise InvalidRequest(
                [Problem("sync_mode", "it disagrees with response_format; send one of the two", "conflict", True)]
            )
        return Request(
            model=model.name,
            prompt=self.prompt,
            seed=default_seed if self.seed is None else self.seed,
            images=agreed("n", self.n, "num_images", self.num_images) or 1,
            output_format=self.image_format,
            enhance=self.enhance_prompt,
            **self.particulars(model),
        )

    @property
    def image_format(self) -> OutputFormat:
        """How the images are encoded."""
        return "jpeg" if self.output_format == "jpeg" else "png"

    @property
    def result_format(self) -> ResultFormat:
        """How the answer carries the images."""
        if self.response_format:
            return self.response_format
        return "data" if self.sync_mode else "url"

    def particulars(self, model: Model) -> dict[str, Any]:
        """Return what is not the same for every model, under the names of `Request`. Raises InvalidRequest."""
        raise NotImplementedError


class SrpoCall(Call):
    """What a call for SRPO may say."""

    TERMS: ClassVar[DialectTerms]

    size: str | None = None
    image_size: ImageSize | None = None
    num_inference_steps: Whole
    guidance_scale: Number
    enable_safety_checker: Flag
    acceleration: Acceleration

    def particulars(self, _model: Model) -> dict[str, Any]:
        return self.sizing() | {
            "steps": self.num_inference_steps,
            "guidance": self.guidance_scale,
            "safety": self.enable_safety_checker,
            "acceleration": self.acceleration,
        }

    def sizing(self) -> dict[str, Any]:
        """The size, under the names of `Request`. Raises InvalidRequest."""
        width, height = self.asked_size() or SIZE_PRESETS[self.TERMS.size]
        return {"width": width, "height": height}

    def asked_size(self) -> tuple[int, int] | None:
        """Width and height, where the call says them. Raises InvalidRequest, also for two that disagree."""
        return agreed("size", self.size_in_text(), "image_size", self.size_in_sides())

    def size_in_text(self) -> tuple[int, int] | None:
        """What `size` says. Raises InvalidRequest."""
        if self.size is None or self.size == "auto":
            return None
        if preset := SIZE_PRESETS.get(self.size):
            return preset
        size = in_pixels(self.size, f'"WxH" with {self.TERMS.sides}; auto, {", ".join(SIZE_PRESETS)}')
        check_size("size", size, self.TERMS.sides)
        return size

    def size_in_sides(self) -> tuple[int, int] | None:
        """Return what `image_size` says. Raises InvalidRequest."""
        if not isinstance(self.image_size, Sides):
            return SIZE_PRESETS[self.image_size] if self.image_size else None
        missing = self.TERMS.missing_side
        width, height = (missing if side is None else side for side in (self.image_size.width, self.image_size.height))
        check_size("image_size", (width, height), self.TERMS.sides)
        return width, height


class ProviderCall(SrpoCall):
    """What a call for SRPO may say to providers whose default acceleration is `regular`, which their examples send."""

    def particulars(self, model: Model) -> dict[str, Any]:
        found = super().particulars(model)
        if self.acceleration != "regular":
            return found
        notes = (_REGULAR_NOTE,) if "acceleration" in self.model_fields_set else ()
        return found | {"acceleration": REGULAR_MEANS, "notes": notes}


class KontextCall(Call):
    """What a call for Kontext may say. Its steps cannot be set, nor can its check be turned off."""

    size: str | None = None
    aspect_ratio: AspectRatio | None = None
    guidance_scale: Number
    safety_tolerance: SafetyTolerance = str(SAFETY_TOLERANCE.default)

    def particulars(self, model: Model) -> dict[str, Any]:
        own = {
            "steps": model.parameters.steps.default,
            "guidance": self.guidance_scale,
            "safety_tolerance": int(self.safety_tolerance),
        }
        return own | self.sizing()

    def sizing(self) -> dict[str, Any]:
        """The size, under the names of `Request`. Raises InvalidRequest."""
        width, height = self.asked_size() or KONTEXT_SIZES["1:1"]
        return {"width": width, "height": height}

    def asked_size(self) -> tuple[int, int] | None:
        """Width and height, where the call says them. Raises InvalidRequest, also for two that disagree."""
        ratio = KONTEXT_SIZES[self.aspect_ratio] if self.aspect_ratio else None
        return agreed("size", self._size_in_text(), "aspect_ratio", ratio)

    def _size_in_text(self) -> tuple[int, int] | None:
        if self.size is None or self.size == "auto":
            return None
        sizes = [f"{width}x{height}" for width, height in KONTEXT_SIZES.values()]
        allowed = f"auto, {', '.join(sizes)}"
        size = in_pixels(self.size, allowed)
        if size not in KONTEXT_SIZES.values():
            raise InvalidRequest([_no_size(self.size, allowed)])
        return size


def check_size(field: str, size: tuple[int, int], allowed: SideLimits) -> None:
    """Raise InvalidRequest for a size out of the limits. `field` is where it stands."""
    (width, height), asked = size, f"{size[0]}x{size[1]}"
    if not (allowed.allow(width) and allowed.allow(height)):
        message = f"{asked} is no size here; allowed: {allowed}"
        raise InvalidRequest([Problem(field, message, "size_range", asked, {"ge": allowed.min, "le": allowed.max})])
    if width * height > MAX_PIXELS:
        message = f"{asked} is {width * height} pixels; allowed: up to {MAX_PIXELS}"
        raise InvalidRequest([Problem(field, message, "image_too_large", asked, {"max_pixels": MAX_PIXELS})])


def in_pixels(text: str, allowed: str) -> tuple[int, int]:
    """Width and height in the `size` called `text`. Raises InvalidRequest."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequest([_no_size(text, allowed)])
    return int(match[1]), int(match[2])


def _no_size(text: str, allowed: str) -> Problem:
    return Problem("size", f"'{text[:_SHOWN]}' is no size here; allowed: {allowed}", "size_parsing", text)


def agreed(name: str, value: T | None, other: str, others: T | None) -> T | None:
    """What is said under two names, under one of them or under both. Raises InvalidRequest where they disagree."""
    if value is not None and others is not None and value != others:
        raise InvalidRequest([Problem(name, f"it disagrees with {other}; send one of the two", "conflict", value)])
    return others if value is None else value


def generations(
    bases: Mapping[Kind, type[Call]], dialect: str, suffix: str
) -> tuple[Mapping[str, Model], Mapping[str, type[Call]]]:
    """Return the text-to-image models of the dialect, and what a call for each may say, by the models' ids."""
    models = [model for model in MODELS if model.of(dialect) and not model.max_inputs]
    inputs = fields.inputs_by_model(lambda model: bases[model.kind], dialect, suffix, models)
    by_id = {model_id: model for model in models for model_id in model.of(dialect)}
    return by_id, {model_id: inputs[model.name] for model_id, model in by_id.items()}


def parse(kind: type[C], body: Mapping[str, Any]) -> C:
    """`body` as a call of this kind. Raises InvalidRequest with every problem there is."""
    problems = [
        Problem(name, f"this farm does not offer it; {REFUSED[name]}", "feature_not_supported", body[name])
        for name in REFUSED
        if body.get(name) is not None
    ]
    # OpenAI's libraries send null for what is not set.
    given = {name: value for name, value in body.items() if name not in REFUSED and not _is_unset(kind, name, value)}
    try:
        call = fields.parse(kind, given)
    except InvalidRequest as error:
        raise InvalidRequest([*problems, *error.problems]) from error
    if problems:
        raise InvalidRequest(problems)
    return call


def _is_unset(kind: type[Call], name: str, value: object) -> bool:
    return value is None and name in kind.model_fields


def from_texts(texts: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a form, with its numbers and switches as such; what is none stays the text that it is."""
    return {name: _plain(value) if name in NO_TEXTS else _inside(value) for name, value in texts.items()}


def _inside(value: object) -> object:
    """Of an object, which is a size, all is numbers."""
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, dict) else value


def _plain(value: object) -> object:
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, int | float) else value


def listed(value: object) -> object:
    """One image as a list of one: OpenAI's `image` is either."""
    return [value] if isinstance(value, str) else value


#: One or several images, each a URL or a data URI.
ImageUrls = Annotated[list[fields.ImageUrl], Field(max_length=MAX_INPUTS), BeforeValidator(listed)]


def image_data(image: Image, result_format: ResultFormat, links: Links) -> ImageData:
    """Return an image as `result_format` wants it. The other field is left out: some clients take "" for an image.

    Raises StorageError, and NotFound if the image has been deleted.
    """
    if result_format == "b64_json":
        return {"b64_json": base64.b64encode(links.content(image.key)).decode()}
    return {"url": links.data(image) if result_format == "data" else links.file(image.key)}


def created(job: Job) -> int:
    """When the images came to be, in seconds since the epoch."""
    return job.finished_us // 1_000_000


def revised_prompt(job: Job) -> str | None:
    """The prompt as it was rendered; None where it is the caller's own."""
    return None if job.request.original_prompt is None else job.request.prompt


class Failed(FarmError):
    """A job that ended without images, or did not end in time."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.param = param
        super().__init__(message)

    @property
    def retry_after(self) -> None:
        """None: sent again, the call would make a second job."""


def failure(job: Job) -> tuple[int, Failed]:
    """HTTP status and error of a job that failed."""
    # Of an image that could not be used, the text begins with the field, and the host where it was looked for.
    named = (name for name in job.request.source_fields if job.error.startswith((f"{name}:", f"{name} ")))
    return _status_of(job_failure(job.code).status), Failed(job.code, job.error, next(named, None))


def failure_statuses() -> set[int]:
    """Return every HTTP status of a failed job."""
    return {_status_of(failed.status) for failed in JOB_FAILURES.values()}


def _status_of(status: int) -> int:
    """Return the status that OpenAI's libraries expect: an invalid request, or an invalid input image, is 400."""
    return 400 if status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def timed_out(job_id: str, base: str) -> tuple[int, Failed]:
    """HTTP status and error of a call that was held as long as may be."""
    message = (
        f"The image is not ready yet, and goes on being made as job {job_id}; "
        f"it will be at {base}/farm/v1/jobs/{job_id}"
    )
    return 504, Failed(Code.REQUEST_TIMEOUT, message)


def error_response(status: int, error: FarmError) -> ErrorResponse:
    """An error as all read it: OpenAI's object, and at the top what AI/ML API has there.

    What is wrong with a request is 400 to all of them.
    """
    param, code = getattr(error, "param", None), error.call_failure.openai or error.code
    if isinstance(error, InvalidRequest):
        status, param, code = 400, error.problems[0].field or None, error.problems[0].kind
    if isinstance(error, UnknownModel):
        param = "model"
    kind = "server_error" if status >= 500 else _TYPES.get(status, "invalid_request_error")
    body: ErrorBody = {
        "error": {"message": str(error), "type": kind, "param": param, "code": code},
        "message": str(error),
        "statusCode": status,
    }
    return ErrorResponse(status, body)


def call_facts(path: str, request_id: str, now_us: int) -> CallFacts:
    """Return AI/ML API's description of a failed call."""
    return {"path": path, "requestId": request_id, "timestamp": clock.iso(now_us, timespec="milliseconds")}
