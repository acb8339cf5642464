"""Operations of `/v1`: OpenAI's, AI/ML API's and Siraya's dialects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    RATE_LIMITS,
    RETRY_AFTER,
    Body,
    Operation,
    Parameter,
    Response,
    Section,
    any_of,
    error_responses,
    with_model_ids,
)
from farm.dialects import openai, openai_common
from farm.dialects.answers import images as answers
from farm.dialects.openai_common import Call, ImagesDialect
from farm.dialects.registry import DIALECTS

PREFIX = "/v1"


class EditForm(BaseModel):
    """The same request as a form: up to four files named `image` or `image[]`, and the other fields as text."""

    model_config = ConfigDict(extra="allow")

    model: str
    prompt: str
    image: bytes


def _ids(takes: Mapping[str, type[Call]], fields: type[Call]) -> list[str]:
    """Return the ids of the models whose calls have these fields."""
    return [model_id for model_id, taken in takes.items() if taken is fields]


def _with_nulls(fields: type[Call], ids: Iterable[str], name: str = "") -> type[BaseModel]:
    """Return the type of a call's body in which null counts as absent, since OpenAI's libraries send it."""
    optional: dict[str, Any] = {
        field: (info.rebuild_annotation() | None, info.default)
        for field, info in fields.model_fields.items()
        if not info.is_required()
    }
    base = with_model_ids(fields, ids, name)
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **optional)


def _generations(dialect: ImagesDialect) -> Iterator[type[BaseModel]]:
    """Yield the types of a generation's body in this dialect."""
    for fields in dict.fromkeys(dialect.TAKES.values()):
        yield _with_nulls(fields, _ids(dialect.TAKES, fields), f"{dialect.NAME.capitalize()}{fields.__name__}")


GENERATION = any_of([fields for dialect in DIALECTS if dialect.images for fields in _generations(dialect.images)])
_EDITS = dict.fromkeys(openai.EDIT_TAKES.values())
EDIT = any_of(_with_nulls(fields, _ids(openai.EDIT_TAKES, fields)) for fields in _EDITS)

REQUEST_ID = Parameter(
    "X-Request-Id", "The job's id, if there is a job; otherwise a random id.", where="header", is_required=True
)
_SHOULD_RETRY = Parameter("X-Should-Retry", "`false`: a retry would create a second job.", where="header")


def errors(*statuses: int) -> dict[int, Response]:
    """Return error responses in the format that the clients of all three dialects read."""
    responses = error_responses(answers.ImagesError, *statuses)
    return {status: replace(item, headers=(REQUEST_ID, *item.headers)) for status, item in responses.items()}


def _image_responses(body_type: Any) -> dict[int, Response]:
    """Return the responses to a call for images."""
    failed = {
        status: Response("The job failed.", answers.ImagesError, headers=(REQUEST_ID, _SHOULD_RETRY))
        for status in openai_common.failure_statuses()
    }
    return {
        **failed,
        **errors(*GUARDED, 404, 413, 422, 429),
        200: Response("The images.", body_type, headers=(REQUEST_ID, *RATE_LIMITS)),
        400: Response(
            "The request or an input image is invalid, or no worker has loaded the model.",
            answers.ImagesError,
            headers=(REQUEST_ID, _SHOULD_RETRY),
        ),
        503: Response(
            "The farm is unavailable, or no worker is ready. Try again, unless `X-Should-Retry` is `false`.",
            answers.ImagesError,
            headers=(REQUEST_ID, _SHOULD_RETRY, Parameter(RETRY_AFTER.name, RETRY_AFTER.description, int, "header")),
        ),
        504: Response(
            "The time limit was reached and the job continues; the message has its URL.",
            answers.ImagesError,
            headers=(REQUEST_ID, _SHOULD_RETRY),
        ),
    }


_FOX = "a red fox in fresh snow"
_IMAGE = "https://you.example/fox.png"

SECTION = Section(
    name="OpenAI, AI/ML API, Siraya",
    description="The image calls of OpenAI's libraries. The model id selects the dialect.",
    operations=(
        Operation(
            "post",
            f"{PREFIX}/images/generations",
            "createImage",
            "Create images from text",
            body=Body(GENERATION, {"model": "srpo", "prompt": _FOX, "size": "1024x768"}),
            parameters=(IDEMPOTENCY_KEY,),
            responses={
                **_image_responses(answers.GeneratedImages | answers.SirayaImages),
                201: Response(
                    "The images, in AI/ML API's dialect.", answers.AimlapiImages, headers=(REQUEST_ID, *RATE_LIMITS)
                ),
            },
        ),
        Operation(
            "post",
            f"{PREFIX}/images/edits",
            "editImage",
            "Edit images",
            body=Body(EDIT, {"model": "kontext", "prompt": "put a scarf on the fox", "image": _IMAGE}, EditForm),
            parameters=(IDEMPOTENCY_KEY,),
            responses=_image_responses(answers.GeneratedImages),
        ),
        Operation(
            "get",
            f"{PREFIX}/models",
            "listModels",
            "List the ids that are valid as `model`",
            responses={
                200: Response("The models.", answers.ListedModels, headers=(REQUEST_ID,)),
                **errors(*GUARDED, 422),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/models/{{model_id}}",
            "getModel",
            "Get a model",
            responses={
                200: Response("The model.", answers.ListedModel, headers=(REQUEST_ID,)),
                **errors(*GUARDED, 404, 422),
            },
        ),
    ),
)
