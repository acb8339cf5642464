"""WaveSpeed's dialect, version 3, after its documentation and SDKs: submit, result, list, delete, webhook. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Final, Literal
from urllib.parse import parse_qsl

from pydantic import BeforeValidator, Field
from pydantic_core import PydanticCustomError

from farm import clock
from farm.dialects.answers import wavespeed as answers
from farm.dialects.error_response import ErrorResponse
from farm.dialects.fields import Flag, ImageUrl, Input, Number, Prompt, Whole, inputs_by_model, parse
from farm.dialects.links import Links
from farm.domain.catalogue import (
    MODELS,
    SRPO,
    SRPO_IMAGE,
    TERMS,
    WAVESPEED_STRENGTH,
    Model,
    OutputFormat,
    for_images,
    named,
)
from farm.domain.delivery import Due
from farm.domain.error_codes import Code, job_failure
from farm.domain.errors import FarmError, InvalidRequest, Problem
from farm.domain.job import Job, Order, Search, Source, State, Webhook
from farm.domain.request import Request

NAME: Final = "wavespeed"

_TERMS = TERMS[NAME]
#: Default and maximum number of predictions on a page, and the maximum that one call deletes.
PAGE = 100

#: Accepted without effect on text to image without an image, since the example in the documentation sends it. Its
#: range is checked.
TOLERATED = ("strength",)

#: WaveSpeed's statuses that no prediction has here: what was cancelled or took too long is `failed`.
_UNUSED_STATUSES = ("cancelled", "timeout")

#: WaveSpeed's own error numbers, in `data.code`. Its 1200 (moderation) is never sent: a prediction with a flagged image
#: is completed, with the image blacked out and `has_nsfw_contents` set.
MISSING_PARAMETER = 1400
INVALID_PARAMETER = 1401
MEDIA_NOT_REACHED = 1402
INTERNAL = 5000
UNAVAILABLE = 5003
TIMED_OUT = 5004

#: HTTP statuses for which WaveSpeed has no number: its gateway sends the status alone, so the number is the status.
_WITHOUT_NUMBER = (401, 403, 404, 405)

_SIZE = re.compile(r"([0-9]{1,5})\*([0-9]{1,5})")
#: A webhook URL with its own query string, sent unencoded: the rest of the query belongs to it.
_BARE_WEBHOOK = re.compile(r"webhook=((?i:https?)://[^?&]+\?.*)")
_DIGITS = re.compile(r"[0-9]{1,12}")
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Side = Annotated[Whole, Field(ge=_TERMS.sides.min, le=_TERMS.sides.max)]


class TextInput(Input):
    """The body of a submit for text to image. One image per prediction; it is always safety-checked."""

    prompt: Prompt
    size: str | None = None
    width: Side | None = None
    height: Side | None = None
    num_inference_steps: Whole
    seed: Annotated[Whole, Field(ge=_TERMS.min_seed, le=_TERMS.max_seed)] = -1
    guidance_scale: Number
    output_format: OutputFormat = _TERMS.output_format
    enable_base64_output: Flag = False
    enable_sync_mode: Flag = False
    enhance_prompt: Flag = False


class TextToImageInput(TextInput):
    """The body of a submit for text to image. One image per prediction; it is always safety-checked.

    With `image` it is image to image, whichever model id was sent.
    """

    image: ImageUrl | None = None
    strength: Annotated[Number, Field(ge=WAVESPEED_STRENGTH.min, le=WAVESPEED_STRENGTH.max)] | None = None


class ImageToImageInput(TextToImageInput):
    """The body of a submit for image to image. At the strength 0 the result is the image itself, resized."""

    image: ImageUrl
    strength: Number


def _base(model: Model) -> type[TextInput]:
    if model.kind == SRPO_IMAGE.kind:
        return ImageToImageInput
    assert model.kind == SRPO.kind, f"{model.name} has ids of WaveSpeed's, whose dialect has no fields for it"
    return TextToImageInput if _with_image(model).max_inputs else TextInput


def _with_image(model: Model) -> Model:
    """Return the model that is meant where an image comes with a submit to `model`."""
    return model if model.max_inputs else for_images(model.family, 1) or model


#: Model → the type of a submit's body.
INPUTS = inputs_by_model(_base, NAME, "Input", [model for model in MODELS if model.of(NAME)])


@dataclass(frozen=True, slots=True)
class Submit:
    """A parsed submit. With `held`, the answer is sent when the job has ended."""

    order: Order
    held: bool


def read(body: Mapping[str, Any], query: str, *, endpoint: str, model: str, default_seed: int) -> Submit:
    """Parse the body and the query string of a submit; `default_seed` replaces the seed −1.

    The order's model is another than `model`, which is named by `endpoint`, where text to image brings an image.
    """
    webhook = _webhook(query)
    fields = parse(INPUTS[model], body)
    if webhook:
        _refuse_with_webhook(fields)
    image = fields.image if isinstance(fields, TextToImageInput) else None
    request = _request(fields, named(model) if image is None else _with_image(named(model)), default_seed)
    sources = () if image is None else (Source("image", image),)
    inline = fields.enable_base64_output
    order = Order(endpoint, request, dialect=NAME, webhook=webhook, inline=inline, sources=sources)
    return Submit(order, held=fields.enable_sync_mode)


def _request(fields: TextInput, model: Model, default_seed: int) -> Request:
    width, height = _pixels(fields)
    return Request(
        model=model.name,
        prompt=fields.prompt,
        strength=_strength(fields, model),
        width=width,
        height=height,
        steps=fields.num_inference_steps,
        guidance=fields.guidance_scale,
        seed=default_seed if fields.seed == -1 else fields.seed,
        output_format=fields.output_format,
        enhance=fields.enhance_prompt,
    )


def _strength(fields: TextInput, model: Model) -> float | None:
    strength = model.parameters_in(NAME).strength
    if strength is None or not isinstance(fields, TextToImageInput):
        return None
    return strength.default if fields.strength is None else fields.strength


def _webhook(query: str) -> Webhook | None:
    """Parse the only query parameter of a submit. SDKs send it unencoded."""
    if bare := _BARE_WEBHOOK.fullmatch(query):
        return Webhook(bare[1])
    given = _parameters(query)
    unknown = [name for name in given if name != "webhook"]
    if unknown:
        message = "unknown query parameter; allowed: webhook"
        raise InvalidRequest([Problem(name, message, "extra_forbidden", given[name]) for name in unknown])
    if given.get("webhook") == "":
        message = "it is empty; send a URL, or leave the parameter out"
        raise InvalidRequest([Problem("webhook", message, "string_too_short", "")])
    return Webhook(given["webhook"]) if given else None


def _parameters(query: str) -> dict[str, str]:
    """Parse a query string. Raises InvalidRequest if a parameter is repeated."""
    given: dict[str, str] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        if name in given:
            raise InvalidRequest([Problem(name, "sent twice; send it once", "duplicate", value)])
        given[name] = value
    return given


def _refuse_with_webhook(fields: TextInput) -> None:
    for name in ("enable_base64_output", "enable_sync_mode"):
        if getattr(fields, name):
            message = f"webhook cannot be combined with {name}; send one of the two"
            raise InvalidRequest([Problem("webhook", message, "webhook_conflict", True)])


def _pixels(fields: TextInput) -> tuple[int, int]:
    """Return width and height, from `size`, from the two sides, or from both if they agree. Raises InvalidRequest."""
    sides = (fields.width or _TERMS.missing_side, fields.height or _TERMS.missing_side)
    if fields.size is None:
        return sides
    match = _SIZE.fullmatch(fields.size)
    size = (int(match[1]), int(match[2])) if match else (0, 0)
    if not all(map(_TERMS.sides.allow, size)):
        message = f"'{fields.size[:40]}' is not a valid size; allowed: \"W*H\" with {_TERMS.sides}"
        raise InvalidRequest([Problem("size", message, "size_parsing", fields.size)])
    given = [(fields.width, size[0]), (fields.height, size[1])]
    if any(side is not None and side != wanted for side, wanted in given):
        message = f"'{fields.size}' disagrees with width and height; send one of the two"
        raise InvalidRequest([Problem("size", message, "size_conflict", fields.size)])
    return size


def _parse_time(value: object) -> object:
    """Parse a time in ISO 8601 into microseconds since the epoch; without a time zone it is UTC."""
    try:
        time = datetime.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise PydanticCustomError("datetime_parsing", "allowed: a time such as 2026-01-31T12:00:00Z") from None
    return ((time if time.tzinfo else time.replace(tzinfo=UTC)) - _EPOCH) // timedelta(microseconds=1)


Time = Annotated[int, BeforeValidator(_parse_time)]


class ListInput(Input):
    """The search in the list of predictions."""

    page: Annotated[Whole, Field(ge=1, le=10**9)] = 1
    page_size: Annotated[Whole, Field(ge=1, le=PAGE)] = PAGE
    model: Annotated[str, Field(min_length=1)] | None = None
    status: Literal["created", "processing", "completed", "failed", "cancelled", "timeout"] | None = None
    created_after: Time | None = None
    created_before: Time | None = None
    include_inputs: Flag = False


@dataclass(frozen=True, slots=True)
class Listing:
    """A page of the list: its number, its size, and the search for its jobs; None if no prediction can match.

    With `has_inputs` each prediction is shown with its parameters.
    """

    page: int
    size: int
    search: Search | None
    has_inputs: bool = False

    @property
    def skip(self) -> int:
        return (self.page - 1) * self.size


def read_listing(body: Mapping[str, Any], query: str) -> Listing:
    """Parse the search from the body and the query string; WaveSpeed documents both. Raises InvalidRequest."""
    given = _parameters(query)
    twice = [name for name in given if name in body]
    if twice:
        message = "sent in the query string and in the body; send it once"
        raise InvalidRequest([Problem(name, message, "duplicate", given[name]) for name in twice])
    fields = parse(ListInput, {**body, **{name: _number(name, text) for name, text in given.items()}})
    if fields.status in _UNUSED_STATUSES:
        return Listing(fields.page, fields.page_size, None, fields.include_inputs)
    before = fields.created_before
    search = Search(
        after_us=fields.created_after,
        # Times are shown in milliseconds, so the shown time must include its whole millisecond.
        before_us=before if before is None else before - before % 1000 + 999,
        state=State(fields.status) if fields.status else None,
        endpoint=fields.model,
        dialect=NAME,
    )
    return Listing(fields.page, fields.page_size, search, fields.include_inputs)


def _number(name: str, text: str) -> object:
    """Convert the integers and booleans of a query string, which has text only."""
    if name == "include_inputs":
        return {"true": True, "false": False}.get(text, text)
    return int(text) if name in ("page", "page_size") and _DIGITS.fullmatch(text) else text


class DeleteInput(Input):
    """The ids of the predictions to delete."""

    ids: Annotated[list[str], Field(min_length=1, max_length=PAGE)]


def read_deletion(body: Mapping[str, Any]) -> list[str]:
    """Parse the ids of the predictions to delete, without duplicates."""
    return list(dict.fromkeys(parse(DeleteInput, body).ids))


def deleted(count: int) -> answers.DeletedAnswer:
    """Build the answer to a deletion. Source: https://wavespeed.ai/docs/docs-common-api/prediction-delete."""
    return {**answers.SUCCESS, "data": {"deleted_count": count}}


def answer(job: Job, links: Links) -> answers.PredictionAnswer:
    """Build the answer with one prediction."""
    return {**answers.SUCCESS, "data": prediction(job, links)}


def prediction(job: Job, links: Links) -> answers.Prediction:
    """Build the prediction that shows a job. Times in milliseconds; `status`, `error` and `code` tell a failed one."""
    result = job.result
    failed = job.state is State.FAILED
    milliseconds = round(result.timings["inference"] * 1000) if result else 0
    shown: answers.Prediction = {
        "id": job.id,
        "model": job.endpoint,
        "status": job.state,
        "code": job_failure(job.code).wavespeed if failed else 0,
        "error": job.error if failed else "",
        "outputs": _outputs(job, links),
        "urls": {"get": _result_url(job, links)},
        "has_nsfw_contents": list(result.flagged) if result else [],
        "prompt": job.request.prompt,
        "seed": job.request.seed,
        "created_at": clock.iso(job.created_us, timespec="milliseconds"),
        "timings": {"inference": milliseconds},
        "executionTime": milliseconds,
    }
    if result and result.warnings:
        shown["warnings"] = list(result.warnings)
    return shown


def _outputs(job: Job, links: Links) -> list[str]:
    """Return the URLs of the images, or the images in bare base64."""
    storage_keys = [image.key for image in job.result.images] if job.result else []
    if job.inline:
        return [links.encoded(key) for key in storage_keys]
    return [links.file(key) for key in storage_keys]


def _result_url(job: Job, links: Links) -> str:
    return f"{links.base}/api/v3/predictions/{job.id}/result"


def held_answer(job: Job, links: Links) -> answers.PredictionAnswer:
    """Build the answer to a blocking call: the ended prediction or, in the SDKs' own words, that it goes on."""
    if job.state.is_terminal:
        return answer(job, links)
    # `processing` even while it waits. The text must not look like an error after which clients submit again.
    error = (
        f"Sync mode timed out; the prediction continues. Prediction ID: {job.id}. "
        f"Query the result later at: {_result_url(job, links)}"
    )
    shown = prediction(job, links)
    shown["status"], shown["code"], shown["error"] = State.PROCESSING, TIMED_OUT, error
    return {**answers.SUCCESS, "data": shown}


def page(listing: Listing, jobs: list[Job], total: int, links: Links) -> answers.PredictionPageAnswer:
    """Build a page of predictions. Outputs are always URLs: a hundred images are too much for one answer."""
    items = [_listed(replace(job, inline=False), links, has_inputs=listing.has_inputs) for job in jobs]
    return {**answers.SUCCESS, "data": {"page": listing.page, "total": total, "items": items}}


def _listed(job: Job, links: Links, *, has_inputs: bool) -> answers.ListedPrediction:
    shown = prediction(job, links)
    return {**shown, "inputs": _input(job.request, links)} if has_inputs else {**shown}


def models(served: Iterable[tuple[str, Model]], *, price: float, base: str) -> answers.WaveSpeedModelsAnswer:
    """Build the list of models, each under every id. Source: https://wavespeed.ai/docs/list-models."""
    return {**answers.SUCCESS, "data": [_model(model_id, model, price, base) for model_id, model in served]}


def _model(model_id: str, model: Model, price: float, base: str) -> answers.WaveSpeedModel:
    schema = INPUTS[model.name].model_json_schema()
    return {
        "model_id": model_id,
        "name": model_id,
        "base_price": price,
        "description": model.title,
        "type": "image-to-image" if model.max_inputs else "text-to-image",
        "api_schema": {
            "api_schemas": [
                {
                    "type": "model_run",
                    "method": "POST",
                    "server": base,
                    "api_path": f"/api/v3/{model_id}",
                    "request_schema": {**schema, "x-order-properties": list(schema["properties"])},
                }
            ]
        },
    }


def webhook_body(job: Job, _due: Due, links: Links) -> answers.PredictionEvent:
    """Build the body of a webhook: the prediction without the envelope, and the parameters of its request."""
    return {**prediction(job, links), "input": _input(job.request, links)}


def _input(request: Request, links: Links) -> answers.PredictionInput:
    """Return the parameters of a request, complete enough to submit it again; images by their URLs."""
    given: answers.PredictionInput = {
        "prompt": request.original_prompt or request.prompt,
        "size": f"{request.width}*{request.height}",
        "num_inference_steps": request.steps,
        "guidance_scale": request.guidance,
        "seed": request.seed,
        "output_format": request.output_format,
    }
    if request.enhance or request.original_prompt:
        given["enhance_prompt"] = True
    if request.sources:
        given["image"] = links.source(request.sources[0])
    if request.strength is not None:
        given["strength"] = request.strength
    return given


def error_response(status: int, error: FarmError) -> ErrorResponse:
    """Build the error response; WaveSpeed answers an invalid request with 400."""
    status = 400 if isinstance(error, InvalidRequest) else status
    return ErrorResponse(status, problem(status, error))


def problem(status: int, error: FarmError) -> answers.WaveSpeedError:
    """Build an error: `code` repeats the HTTP status, `data.code` is WaveSpeed's own number.

    Its pages show the text as `message` in some places and as `error` in others, so both are sent.
    """
    return {
        "code": status,
        "message": str(error),
        "error": str(error),
        "error_code": error.code,
        "data": {"code": _error_number(status, error), "error": str(error)},
    }


def _error_number(status: int, error: FarmError) -> int:
    if isinstance(error, InvalidRequest):
        return _number_of({item.kind for item in error.problems})
    if status in (429, 503):
        return UNAVAILABLE
    if status >= 500:
        return INTERNAL
    return status if status in _WITHOUT_NUMBER else INVALID_PARAMETER


def _number_of(kinds: set[str]) -> int:
    """Return WaveSpeed's number for problems of these kinds."""
    if kinds == {"missing"}:
        return MISSING_PARAMETER
    return MEDIA_NOT_REACHED if kinds == {Code.FILE_DOWNLOAD_ERROR} else INVALID_PARAMETER
