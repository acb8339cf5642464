"""Submits of each dialect, and how their answers are read."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from tests.service.api.calls import FAL_QUEUE, FAL_RUN, GENERATIONS, WAVESPEED, WAVESPEED_IMAGE, refusal

Body = Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """A way to submit a job.

    `accepted`: the status of an accepted submit, also of one whose call waits for the job in vain. `invalid`: that of
    a submit with a wrong field. `not_served`: path and body of a submit to a model that no worker serves. `waits`: the
    call is answered at the end of the job.
    """

    name: str
    dialect: str
    path: str
    body: Body
    accepted: int
    invalid: int
    job_id: Callable[[TestResponse], str]
    #: An id of the model, which errors show where another one is not served.
    model_id: str
    not_served: tuple[str, Body]
    waits: bool = False

    def submit(self, api: FlaskClient, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
        return api.post(self.path, json={**self.body, **fields}, headers=headers)

    def error(self, response: TestResponse, status: int = 0) -> str:
        """Return the message of an error, whose shape must be the dialect's own. Without a status: of a wrong field."""
        return refusal(response, status or self.invalid, path=self.path)

    def __str__(self) -> str:
        return self.name


def _prediction_id(response: TestResponse) -> str:
    return str(response.get_json()["data"]["id"])


def _images(dialect: str, model_id: str) -> Dialect:
    return Dialect(
        name=dialect,
        dialect=dialect,
        path=GENERATIONS,
        body={"model": model_id, "prompt": "a fox"},
        accepted=504,
        invalid=400,
        job_id=lambda response: response.headers["x-request-id"],
        model_id="flux/srpo",
        not_served=(GENERATIONS, {"model": "kontext", "prompt": "a fox"}),
        waits=True,
    )


DIALECTS = (
    Dialect(
        name="native",
        dialect="native",
        path="/farm/v1/jobs",
        body={"model": "srpo", "prompt": "a fox"},
        accepted=202,
        invalid=422,
        job_id=lambda response: str(response.get_json()["id"]),
        model_id="fal-ai/flux/srpo",
        not_served=("/farm/v1/jobs", {"model": "kontext-text-to-image", "prompt": "a fox"}),
    ),
    Dialect(
        name="fal queue",
        dialect="fal",
        path=FAL_QUEUE,
        body={"prompt": "a fox"},
        accepted=200,
        invalid=422,
        job_id=lambda response: str(response.get_json()["request_id"]),
        model_id="fal-ai/flux/srpo",
        not_served=("/fal/queue/fal-ai/flux-pro/kontext/text-to-image", {"prompt": "a fox"}),
    ),
    Dialect(
        name="fal run",
        dialect="fal",
        path=FAL_RUN,
        body={"prompt": "a fox"},
        accepted=504,
        invalid=422,
        job_id=lambda response: response.headers["x-fal-request-id"],
        model_id="fal-ai/flux/srpo",
        not_served=("/fal/run/fal-ai/flux-pro/kontext/text-to-image", {"prompt": "a fox"}),
        waits=True,
    ),
    Dialect(
        name="wavespeed",
        dialect="wavespeed",
        path=WAVESPEED,
        body={"prompt": "a fox"},
        accepted=200,
        invalid=400,
        job_id=_prediction_id,
        model_id="wavespeed-ai/flux-srpo",
        not_served=(WAVESPEED_IMAGE, {"prompt": "a fox", "image": "https://example.com/fox.png"}),
    ),
    Dialect(
        name="wavespeed sync",
        dialect="wavespeed",
        path=WAVESPEED,
        body={"prompt": "a fox", "enable_sync_mode": True},
        accepted=200,
        invalid=400,
        job_id=_prediction_id,
        model_id="wavespeed-ai/flux-srpo",
        not_served=(WAVESPEED_IMAGE, {"prompt": "a", "image": "https://example.com/a.png", "enable_sync_mode": True}),
        waits=True,
    ),
    _images("openai", "srpo"),
    _images("aimlapi", "flux/srpo"),
    _images("siraya", "flux-1-srpo-text-to-image"),
)
