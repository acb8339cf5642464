"""Parameters, result formats and errors that the dialects at `/v1` share. Pure.

The model id selects the dialect. Callers of all three use OpenAI's libraries, so each dialect accepts OpenAI's names
next to its own, and the farm's own parameters under fal's names, with its own limits and defaults.
"""

from __future__ import annotations

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
    MAX_JPEG_QUALITY,
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
    nearest_size,
)
from farm.domain.error_codes import JOB_FAILURES, Code, job_failure
from farm.domain.errors import FarmError, InvalidRequest, Problem, UnknownModel
from farm.domain.job import Image, Job, Order, Result, Source
from farm.domain.request import Request

C = TypeVar("C", bound="Call")
T = TypeVar("T")

#: Parameters that are accepted without effect, with the reason. Of several values, only those are accepted that ask for
#: what the farm does anyway.
TOLERATED = {
    "user": "a label of the caller's end user, on which nothing depends",
    "safety_identifier": "a label of the caller's end user, on which nothing depends",
    "quality": "every image has the quality that num_inference_steps gives; the levels of OpenAI's models are accepted",
    "style": "the style follows from the prompt; OpenAI's 'vivid' and 'natural' are accepted",
    "background": "every image is opaque, as 'auto' and 'opaque' ask",
    "moderation": "'auto' and 'low' leave moderation to enable_safety_checker",
    "stream": "no call is streamed, as false asks",
    "partial_images": "no partial images are sent, as 0 asks",
}
#: OpenAI's parameters that this farm does not support, with what to do instead.
REFUSED = {
    "input_fidelity": "use strength and guidance_scale; OpenAI's default, 'low', is accepted",
    "mask": "describe the change in the prompt, with the model 'kontext'",
    "markup": "describe the change in the prompt, with the model 'kontext'",
    "complexity": "use num_inference_steps",
    "frame_count": "animation is not supported",
    "frame_duration_ms": "animation is not supported",
    "svg": "use output_format png or jpeg",
}
#: OpenAI's defaults of these: they ask for nothing that this farm lacks.
DEFAULTS_OF_REFUSED = {"input_fidelity": "low"}
#: Fields of a form that are numbers or booleans; all other fields are text.
NON_TEXT_FIELDS = frozenset(
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
        "output_compression",
    }
)

#: Texts of a form that mean null: forms of HTML send empty fields, and OpenAI's JavaScript library demands `null`.
_UNSET_IN_FORMS = ("", "null")
#: Booleans of a form as Python's `requests` writes them.
_PYTHON_FLAGS = {"True": True, "False": False}

#: The form of an image in an answer: a URL, a data URI, base64 in a field of its own, or a URL and base64.
ResultFormat = Literal["url", "data", "b64_json", "both"]

#: OpenAI's types of errors by HTTP status, below 500; `invalid_request_error` for any other.
_TYPES = {403: "permission_error", 429: "rate_limit_error"}

#: The longest side over the shortest: beyond it, most of what Kontext renders would be cropped.
MAX_RATIO = 21 / 9

_SIZE = re.compile(r"([0-9]{1,5})x([0-9]{1,5})", re.ASCII)
_MAX_SHOWN_SIZE = 40


class Sides(Input):
    """A size in pixels, with the dialect's limits."""

    width: Whole | None = None
    height: Whole | None = None


def _branch(value: object) -> str:
    return SIDES if isinstance(value, dict | Sides) else PRESET


ImageSize = Annotated[Annotated[Preset, Tag(PRESET)] | Annotated[Sides, Tag(SIDES)], Discriminator(_branch)]


@dataclass(frozen=True, slots=True)
class ParsedCall:
    """A parsed call: its order, and the form of the images in the answer."""

    order: Order
    result_format: ResultFormat


class ImagesDialect(Protocol):
    """A dialect's module: its models by id, and the type of a call's body for each.

    Edits are OpenAI's call only.
    """

    NAME: str
    SUCCESS: int
    GENERATES: Mapping[str, Model]
    TAKES: Mapping[str, type[Call]]

    def generation(self, body: Mapping[str, Any], *, default_seed: int) -> ParsedCall: ...

    def answer(self, job: Job, result: Result, result_format: ResultFormat, links: Links) -> Mapping[str, Any]: ...


class Call(Input):
    """The fields of every call. Null counts as absent."""

    #: The form of the images if the call does not set it.
    DEFAULT_FORMAT: ClassVar[ResultFormat] = "url"

    model: str
    prompt: Prompt
    n: Count | None = None
    num_images: Count | None = None
    seed: Seed | None = None
    output_format: str
    output_compression: Annotated[Whole, Field(ge=0, le=100)] = 100
    response_format: Literal["url", "b64_json"] | None = None
    sync_mode: Flag = False
    enhance_prompt: Flag = False
    user: str | None = None
    safety_identifier: str | None = None
    quality: Literal["auto", "low", "medium", "high", "standard", "hd"] | None = None
    style: Literal["vivid", "natural"] | None = None
    background: Literal["auto", "opaque"] | None = None
    moderation: Literal["auto", "low"] | None = None
    stream: OffOnly = False
    partial_images: Annotated[Whole, Field(ge=0, le=0)] = 0

    def request(self, model: Model, *, default_seed: int) -> Request:
        """Return the dialect-neutral request; `default_seed` is used if the call has no seed. Raises InvalidRequest."""
        if self.sync_mode and self.response_format == "url":
            raise InvalidRequest(
                [Problem("sync_mode", "it contradicts response_format; send one of the two", "conflict", True)]
            )
        return Request(
            model=model.name,
            prompt=self.prompt,
            seed=default_seed if self.seed is None else self.seed,
            images=single_value("n", self.n, "num_images", self.num_images) or 1,
            output_format=self.image_format,
            jpeg_quality=self.jpeg_quality,
            enhance=self.enhance_prompt,
            **self.request_fields(model),
        )

    @property
    def image_format(self) -> OutputFormat:
        """The encoding of the images."""
        return "jpeg" if self.output_format == "jpeg" else "png"

    @property
    def jpeg_quality(self) -> int:
        """The quality of a JPEG file. Raises InvalidRequest for a PNG file with less than full quality."""
        if self.output_compression < 100 and self.image_format == "png":
            message = "a PNG file is lossless; allowed with it: 100. For smaller files set output_format to jpeg"
            raise InvalidRequest([Problem("output_compression", message, "conflict", self.output_compression)])
        return min(max(self.output_compression, 1), MAX_JPEG_QUALITY)

    @property
    def result_format(self) -> ResultFormat:
        """The form of the images in the answer."""
        if self.response_format:
            return self.response_format
        return "data" if self.sync_mode else self.DEFAULT_FORMAT

    def request_fields(self, model: Model) -> dict[str, Any]:
        """Return the fields of `Request` that differ by model. Raises InvalidRequest."""
        raise NotImplementedError


class SrpoCall(Call):
    """The fields of a call for SRPO."""

    TERMS: ClassVar[DialectTerms]

    size: str | None = None
    image_size: ImageSize | None = None
    num_inference_steps: Whole
    guidance_scale: Number
    enable_safety_checker: Flag
    acceleration: Acceleration

    def request_fields(self, _model: Model) -> dict[str, Any]:
        return self.size_fields() | {
            "steps": self.num_inference_steps,
            "guidance": self.guidance_scale,
            "safety": self.enable_safety_checker,
            "acceleration": self.acceleration,
        }

    def size_fields(self) -> dict[str, Any]:
        """Return the size as fields of `Request`. Raises InvalidRequest."""
        width, height = self.requested_size() or SIZE_PRESETS[self.TERMS.size]
        return {"width": width, "height": height}

    def requested_size(self) -> tuple[int, int] | None:
        """Return width and height if the call has them. Raises InvalidRequest, also for contradicting sizes."""
        return single_value("size", self.size_from_text(), "image_size", self.size_from_sides())

    def size_from_text(self) -> tuple[int, int] | None:
        """Return the size in `size`. Raises InvalidRequest."""
        if self.size is None or self.size == "auto":
            return None
        if preset := SIZE_PRESETS.get(self.size):
            return preset
        size = parse_size(self.size, f'"WxH" with {self.TERMS.sides}; auto, {", ".join(SIZE_PRESETS)}')
        check_size("size", size, self.TERMS.sides)
        return size

    def size_from_sides(self) -> tuple[int, int] | None:
        """Return the size in `image_size`. Raises InvalidRequest."""
        if not isinstance(self.image_size, Sides):
            return SIZE_PRESETS[self.image_size] if self.image_size else None
        missing = self.TERMS.missing_side
        width, height = (missing if side is None else side for side in (self.image_size.width, self.image_size.height))
        check_size("image_size", (width, height), self.TERMS.sides)
        return width, height


class KontextCall(Call):
    """The fields of a call for Kontext. Its steps are fixed and its safety checker is always on."""

    size: str | None = None
    aspect_ratio: AspectRatio | None = None
    guidance_scale: Number
    safety_tolerance: SafetyTolerance = str(SAFETY_TOLERANCE.default)

    def request_fields(self, model: Model) -> dict[str, Any]:
        own = {
            "steps": model.parameters.steps.default,
            "guidance": self.guidance_scale,
            "safety_tolerance": int(self.safety_tolerance),
        }
        return own | self.size_fields()

    def size_fields(self) -> dict[str, Any]:
        """Return the size as fields of `Request`: the nearest one that the model knows. Raises InvalidRequest."""
        wanted = self.requested_size() or KONTEXT_SIZES["1:1"]
        width, height = nearest_size(*wanted, KONTEXT_SIZES)
        if (width, height) == wanted:
            return {"width": width, "height": height}
        note = (
            f"Rendered at {width}x{height}, the nearest size that the model knows; scaled and cropped to {self.size}."
        )
        return {"width": width, "height": height, "output_size": wanted, "notes": (note,)}

    def requested_size(self) -> tuple[int, int] | None:
        """Return width and height if the call has them. Raises InvalidRequest, also for contradicting sizes."""
        ratio = KONTEXT_SIZES[self.aspect_ratio] if self.aspect_ratio else None
        return single_value("size", self._size_from_text(), "aspect_ratio", ratio)

    def _size_from_text(self) -> tuple[int, int] | None:
        if self.size is None or self.size == "auto":
            return None
        sizes = [f"{width}x{height}" for width, height in KONTEXT_SIZES.values()]
        allowed = (
            f'auto, {", ".join(sizes)}; other sizes of "WxH" from 9:21 to 21:9, with {SideLimits()}, are rendered near'
        )
        size = parse_size(self.size, allowed)
        if size not in KONTEXT_SIZES.values():
            check_size("size", size, SideLimits())
            if max(size) / min(size) > MAX_RATIO:
                raise InvalidRequest([_no_size(self.size, allowed)])
        return size


def check_size(field: str, size: tuple[int, int], allowed: SideLimits) -> None:
    """Raise InvalidRequest if a size is outside the limits; `field` is its name."""
    (width, height), text = size, f"{size[0]}x{size[1]}"
    if not (allowed.allow(width) and allowed.allow(height)):
        message = f"{text} is not a valid size; allowed: {allowed}"
        raise InvalidRequest([Problem(field, message, "size_range", text, {"ge": allowed.min, "le": allowed.max})])
    if width * height > MAX_PIXELS:
        message = f"{text} is {width * height} pixels; allowed: up to {MAX_PIXELS}"
        raise InvalidRequest([Problem(field, message, "image_too_large", text, {"max_pixels": MAX_PIXELS})])


def parse_size(text: str, allowed: str) -> tuple[int, int]:
    """Parse a size of the form `1024x768`. Raises InvalidRequest."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise InvalidRequest([_no_size(text, allowed)])
    return int(match[1]), int(match[2])


def _no_size(text: str, allowed: str) -> Problem:
    return Problem("size", f"'{text[:_MAX_SHOWN_SIZE]}' is not a valid size; allowed: {allowed}", "size_parsing", text)


def single_value(name: str, value: T | None, other: str, others: T | None) -> T | None:
    """Return the value of a parameter with two names. Raises InvalidRequest if the two contradict each other."""
    if value is not None and others is not None and value != others:
        raise InvalidRequest([Problem(name, f"it contradicts {other}; send one of the two", "conflict", value)])
    return others if value is None else value


def generations(
    bases: Mapping[Kind, type[Call]], dialect: str, suffix: str
) -> tuple[Mapping[str, Model], Mapping[str, type[Call]]]:
    """Return the text-to-image models of the dialect, and the type of a call's body for each, by model id."""
    models = [model for model in MODELS if model.of(dialect) and not model.max_inputs]
    inputs = fields.inputs_by_model(lambda model: bases[model.kind], dialect, suffix, models)
    by_id = {model_id: model for model in models for model_id in model.of(dialect)}
    return by_id, {model_id: inputs[model.name] for model_id, model in by_id.items()}


def parsed_call(
    call: Call, model: Model, *, dialect: str, default_seed: int, sources: tuple[Source, ...] = ()
) -> ParsedCall:
    """Return the order of a call, and the form of its answer. Raises InvalidRequest."""
    request = call.request(model, default_seed=default_seed)
    order = Order(
        call.model, request, dialect=dialect, inline=call.result_format in ("data", "b64_json"), sources=sources
    )
    return ParsedCall(order, call.result_format)


def parse(kind: type[C], body: Mapping[str, Any]) -> C:
    """Parse `body` into a call of this type. Raises InvalidRequest with all problems."""
    problems = [
        Problem(name, f"this parameter is not supported; {REFUSED[name]}", "feature_not_supported", body[name])
        for name in REFUSED
        if body.get(name) not in (None, DEFAULTS_OF_REFUSED.get(name))
    ]
    # OpenAI's libraries send null for parameters that are not set.
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


def form_fields(texts: Mapping[str, Any]) -> dict[str, Any]:
    """Convert the numbers, booleans and nulls of a form, which has text only. Invalid values stay text."""
    return {name: _from_text(name, value) for name, value in texts.items()}


def _from_text(name: str, value: object) -> object:
    if name != "prompt" and value in _UNSET_IN_FORMS:
        return None
    return _plain(value) if name in NON_TEXT_FIELDS else _inside(value)


def _inside(value: object) -> object:
    """Convert the numbers of an object, which is a size."""
    return {name: _plain(part) for name, part in value.items()} if isinstance(value, dict) else value


def _plain(value: object) -> object:
    if isinstance(value, str) and value in _PYTHON_FLAGS:
        return _PYTHON_FLAGS[value]
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except (ValueError, RecursionError):
        return value
    return found if isinstance(found, int | float) else value


def listed(value: object) -> object:
    """Return a single image as a list of one: OpenAI's `image` may be either."""
    return [value] if isinstance(value, str) else value


#: One or more images, each a URL or a data URI.
ImageUrls = Annotated[list[fields.ImageUrl], Field(max_length=MAX_INPUTS), BeforeValidator(listed)]


def image_data(image: Image, result_format: ResultFormat, links: Links) -> ImageData:
    """Return an image as `result_format` wants it. The other field is left out: some clients take "" for an image.

    Raises StorageError, and NotFound if the image has been deleted.
    """
    data: ImageData = {}
    if result_format != "b64_json":
        data["url"] = links.data(image) if result_format == "data" else links.file(image.key)
    if result_format in ("b64_json", "both"):
        data["b64_json"] = links.encoded(image.key)
    return data


def created(job: Job) -> int:
    """Return the time of completion, in seconds since the epoch."""
    return job.finished_us // 1_000_000


def revised_prompt(job: Job) -> str | None:
    """Return the rendered prompt if it was rewritten, else None."""
    return None if job.request.original_prompt is None else job.request.prompt


class Failed(FarmError):
    """A job that failed, or did not end in time."""

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        self.code = code
        self.param = param
        super().__init__(message)

    @property
    def retry_after(self) -> None:
        """None: sent again, the call would make a second job."""


def failure(job: Job) -> tuple[int, Failed]:
    """Return HTTP status and error of a failed job."""
    # For an unusable input image, the message begins with the name of the field.
    named = (name for name in job.request.source_fields if job.error.startswith((f"{name}:", f"{name} ")))
    return _status_of(job_failure(job.code).status), Failed(job.code, job.error, next(named, None))


def failure_statuses() -> set[int]:
    """Return every HTTP status of a failed job."""
    return {_status_of(failed.status) for failed in JOB_FAILURES.values()}


def _status_of(status: int) -> int:
    """Return the status that OpenAI's libraries expect: an invalid request, or an invalid input image, is 400."""
    return 400 if status == HTTPStatus.UNPROCESSABLE_ENTITY else status


def timed_out(job_id: str, base: str) -> tuple[int, Failed]:
    """Return HTTP status and error of a call that has reached its time limit."""
    message = (
        f"The image is not ready yet and rendering continues as job {job_id}; "
        f"it will be at {base}/farm/v1/jobs/{job_id}"
    )
    return 504, Failed(Code.REQUEST_TIMEOUT, message)


def error_response(status: int, error: FarmError) -> ErrorResponse:
    """Build the error response for all three dialects: OpenAI's error object, and AI/ML API's fields next to it.

    An invalid request is 400 in all of them.
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
