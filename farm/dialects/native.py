"""The farm's own dialect: `/farm/v1`. Fields under fal's names; errors as problem details (RFC 9457). Pure."""

from __future__ import annotations

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated, Any, Literal, cast, get_args

from pydantic import Field, create_model

from farm import clock
from farm.dialects.error_response import Refusal
from farm.dialects.fields import FIELDS, ModelFields, parse
from farm.dialects.links import Links
from farm.domain.catalogue import named
from farm.domain.delivery import TEST, Delivery, Due
from farm.domain.errors import FarmError, InvalidRequest, Problem
from farm.domain.job import Change, Image, Job, Order, State, Webhook
from farm.domain.request import Priority

NAME = "native"

EventName = Literal["job.created", "job.processing", "job.completed", "job.failed"]


class JobInput(ModelFields):
    """What the body of a submit says of the job, whichever model is to make its images."""

    model: str
    priority: Priority = "normal"
    webhook_url: Annotated[str, Field(min_length=1)] | None = None
    webhook_events: Annotated[list[EventName], Field(min_length=1)] | None = None


def _input(fields: type[ModelFields]) -> type[JobInput]:
    """Return what the body of a submit may say: the model's own fields, and those of the job."""
    name = fields.__name__.removesuffix("Fields") + "Input"
    bases: tuple[type[ModelFields], ...] = (fields, JobInput)
    return cast("type[JobInput]", create_model(name, __base__=bases, __doc__=fields.__doc__, __module__=__name__))


#: Model → the body of a submit.
INPUTS = {model: _input(fields) for model, fields in FIELDS.items()}


def read(body: Mapping[str, Any], *, model: str, default_seed: int) -> Order:
    """A submit's body as an order for `model`. `default_seed` is taken where the caller gives none."""
    fields = parse(INPUTS[model], body)
    return Order(
        fields.model,
        fields.request(named(model), default_seed=default_seed),
        fields.priority,
        webhook=_webhook(fields),
        inline=fields.sync_mode,
        sources=fields.sources(),
    )


def _webhook(fields: JobInput) -> Webhook | None:
    if fields.webhook_url is None:
        if fields.webhook_events is not None:
            raise InvalidRequest([Problem("webhook_url", "it is required where webhook_events is given", "missing")])
        return None
    names = fields.webhook_events or get_args(EventName)
    return Webhook(fields.webhook_url, frozenset(State(name.removeprefix("job.")) for name in names))


def accepted(job_id: str, base: str) -> dict[str, Any]:
    """The answer to a submit."""
    url = f"{base}/farm/v1/jobs/{job_id}"
    urls = {"get": url, "cancel": f"{url}/cancel", "events": f"{url}/events"}
    return {"id": job_id, "status": "created", "urls": urls}


def view(job: Job, links: Links, *, inline: bool = False) -> dict[str, Any]:
    """A job as its caller sees it. Times in UTC, timings in seconds; what is not known, or not yet, is null.

    `prompt` is the one that is rendered: where it was rewritten, `original_prompt` is the caller's. `inputs` are URLs:
    the caller's own, or of the farm's copies. `inline`: with the images themselves in place of their URLs. Raises
    StorageError.
    """
    result, request = job.result, job.request
    return {
        "id": job.id,
        "model": job.endpoint,
        "status": job.state.value,
        "code": job.code or None,
        "error": job.error or None,
        "priority": job.priority,
        "prompt": request.prompt,
        "original_prompt": request.original_prompt,
        "inputs": [links.source(named) for named in request.sources],
        "strength": request.strength,
        "num_images": request.images,
        "progress": {"step": job.steps if result else job.step, "steps": job.steps},
        "images": [_image(image, links, inline=inline) for image in result.images] if result else [],
        "seed": request.seed,
        "has_nsfw_concepts": list(result.flagged) if result else [],
        "retry_of": job.retry_of or None,
        "retried_as": job.retried_as or None,
        "timings": result.timings if result else {},
        "warnings": list(result.warnings if result else request.notes),
        "build": result.build if result else None,
        "created_at": clock.iso(job.created_us),
        "started_at": clock.iso(job.started_us) if job.started_us else None,
        "finished_at": clock.iso(job.finished_us) if job.finished_us else None,
    }


def _image(image: Image, links: Links, *, inline: bool) -> dict[str, Any]:
    return {
        "url": links.data(image) if inline else links.file(image.key),
        "width": image.width,
        "height": image.height,
        "content_type": image.content_type,
        "file_size": image.bytes,
    }


def webhook_body(job: Job, due: Due, links: Links) -> dict[str, Any]:
    """The body of a webhook: what happened when, as which of the job's changes, and the whole present state."""
    head = {"type": f"job.{due.event}", "timestamp": clock.iso(due.created_us), "sequence": due.sequence}
    return head | {"data": view(job, links)}


def change(item: Change, links: Links) -> dict[str, Any]:
    """A change of a job's state as observers are told of it. Whose job it is, it does not say."""
    return {
        "id": item.job,
        "model": item.endpoint,
        "status": item.state.value,
        "code": item.code or None,
        "sequence": item.sequence,
        "at": clock.iso(item.moment.ms * 1000, timespec="milliseconds"),
        "urls": {"get": f"{links.base}/farm/v1/jobs/{item.job}"},
    }


def delivery(item: Delivery) -> dict[str, Any]:
    """A delivery as its caller sees it, with every try."""
    return {
        "id": item.id,
        "job": item.job if item.event != TEST else None,
        "event": f"job.{item.event}" if item.event != TEST else TEST,
        "sequence": item.sequence,
        "receiver": item.receiver,
        "status": item.state.value,
        "created_at": clock.iso(item.created_us),
        "next_try_at": clock.iso(item.due_us) if item.due_us else None,
        "attempts": [
            {
                "at": clock.iso(attempt.at_us),
                "seconds": attempt.seconds,
                "status": attempt.status or None,
                "error": attempt.error or None,
                "answer": attempt.answer or None,
            }
            for attempt in item.attempts
        ],
    }


def refusal(status: int, error: FarmError) -> Refusal:
    """An error as problem details."""
    return Refusal(status, problem(status, HTTPStatus(status).phrase, error), media_type="application/problem+json")


def problem(status: int, title: str, error: FarmError) -> dict[str, Any]:
    """Problem details; `errors` names each wrong field."""
    body: dict[str, Any] = {"type": "about:blank", "title": title, "status": status, "code": error.code}
    body["detail"] = str(error)
    if isinstance(error, InvalidRequest):
        body["errors"] = [{"field": item.field, "message": item.message, "type": item.kind} for item in error.problems]
    return body
