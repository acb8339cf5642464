"""`/v1`: OpenAI's, AI/ML API's and Siraya's dialects."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from pydantic import BaseModel, ConfigDict, create_model

from api.openapi.operation import (
    GUARDED,
    IDEMPOTENCY_KEY,
    RATE_LIMITS,
    RETRY_AFTER,
    Answer,
    Body,
    Operation,
    Parameter,
    Section,
    any_of,
    named,
)
from api.openapi.operation import refusals as refused
from farm.dialects import openai, openai_common
from farm.dialects.answers import images as answers
from farm.dialects.openai_common import Call, ImagesDialect
from farm.dialects.registry import DIALECTS

PREFIX = "/v1"


class EditForm(BaseModel):
    """The same as a form: up to four files called `image` or `image[]`, and the other fields as texts."""

    model_config = ConfigDict(extra="allow")

    model: str
    prompt: str
    image: bytes


def _ids(takes: Mapping[str, type[Call]], fields: type[Call]) -> list[str]:
    """Return the ids of the models whose calls have these fields."""
    return [model_id for model_id, taken in takes.items() if taken is fields]


def _with_nulls(fields: type[Call], ids: Iterable[str], name: str = "") -> type[BaseModel]:
    """What a call takes, where null means the same as nothing: OpenAI's libraries send it."""
    told: dict[str, Any] = {
        field: (info.rebuild_annotation() | None, info.default)
        for field, info in fields.model_fields.items()
        if not info.is_required()
    }
    base = named(fields, ids, name)
    return create_model(base.__name__, __base__=base, __doc__=base.__doc__, **told)


def _generations(dialect: ImagesDialect) -> Iterator[type[BaseModel]]:
    """What a generation in this dialect takes."""
    for fields in dict.fromkeys(dialect.TAKES.values()):
        yield _with_nulls(fields, _ids(dialect.TAKES, fields), f"{dialect.NAME.capitalize()}{fields.__name__}")


GENERATION = any_of([kind for dialect in DIALECTS if dialect.images for kind in _generations(dialect.images)])
_EDITS = dict.fromkeys(openai.EDIT_TAKES.values())
EDIT = any_of(_with_nulls(fields, _ids(openai.EDIT_TAKES, fields)) for fields in _EDITS)

REQUEST_ID = Parameter("X-Request-Id", "The job's id, where there is a job.", where="header", is_required=True)
_NOT_AGAIN = Parameter("X-Should-Retry", "`false`: sent again, it would make a second job.", where="header")


def refusals(*statuses: int) -> dict[int, Answer]:
    """Refusals in the shape that all callers of these paths read."""
    told = refused(answers.ImagesError, *statuses)
    return {
        status: Answer(answer.about, answer.kind, headers=(REQUEST_ID, *answer.headers))
        for status, answer in told.items()
    }


def _drawn(kind: Any) -> dict[int, Answer]:
    failed = {
        status: Answer("The job failed.", answers.ImagesError, headers=(REQUEST_ID, _NOT_AGAIN))
        for status in openai_common.failure_statuses()
    }
    return {
        **failed,
        **refusals(*GUARDED, 404, 413, 422, 429),
        200: Answer("The images.", kind, headers=(REQUEST_ID, *RATE_LIMITS)),
        400: Answer(
            "Something in the call or in an image is wrong, or no worker has the model loaded.",
            answers.ImagesError,
            headers=(REQUEST_ID, _NOT_AGAIN),
        ),
        503: Answer(
            "The farm does not answer, or has no worker yet; come back, unless `X-Should-Retry` says otherwise.",
            answers.ImagesError,
            headers=(REQUEST_ID, _NOT_AGAIN, Parameter(RETRY_AFTER.name, RETRY_AFTER.about, int, "header")),
        ),
        504: Answer(
            "It was waited for as long as may be, and goes on; the text says where to see it.",
            answers.ImagesError,
            headers=(REQUEST_ID, _NOT_AGAIN),
        ),
    }


_FOX = "a red fox in fresh snow"
_IMAGE = "https://you.example/fox.png"

SECTION = Section(
    name="OpenAI, AI/ML API, Siraya",
    about="Images as OpenAI's libraries ask for them. The id of the model decides whose fields and defaults hold.",
    operations=(
        Operation(
            "post",
            f"{PREFIX}/images/generations",
            "createImage",
            "Text to image, answered with the images",
            body=Body(GENERATION, {"model": "srpo", "prompt": _FOX, "size": "1024x768"}),
            parameters=(IDEMPOTENCY_KEY,),
            answers={
                **_drawn(answers.GeneratedImages | answers.SirayaImages),
                201: Answer(
                    "The same, to AI/ML API's callers.", answers.AimlapiImages, headers=(REQUEST_ID, *RATE_LIMITS)
                ),
            },
        ),
        Operation(
            "post",
            f"{PREFIX}/images/edits",
            "editImage",
            "Image to image, answered with the images",
            body=Body(EDIT, {"model": "kontext", "prompt": "put a scarf on the fox", "image": _IMAGE}, EditForm),
            parameters=(IDEMPOTENCY_KEY,),
            answers=_drawn(answers.GeneratedImages),
        ),
        Operation(
            "get",
            f"{PREFIX}/models",
            "listModels",
            "What may be named as `model` here",
            answers={
                200: Answer("The models.", answers.ListedModels, headers=(REQUEST_ID,)),
                **refusals(*GUARDED, 422),
            },
        ),
        Operation(
            "get",
            f"{PREFIX}/models/{{model_id}}",
            "getModel",
            "One of them",
            answers={
                200: Answer("The model.", answers.ListedModel, headers=(REQUEST_ID,)),
                **refusals(*GUARDED, 404, 422),
            },
        ),
    ),
)
