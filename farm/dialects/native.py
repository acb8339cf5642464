"""The farm's own dialect, `/farm/v1`: fal's field names, and problem details (RFC 9457) for errors. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Annotated, Any, cast, get_args

from pydantic import Field, create_model

from farm import clock
from farm.dialects.answers import native as answers
from farm.dialects.answers.native import EventName
from farm.dialects.error_response import ErrorResponse
from farm.dialects.fields import FIELDS, ModelFields, parse
from farm.dialects.links import Links
from farm.domain.bulk import Bulk, BulkState
from farm.domain.catalogue import Model, Range, named
from farm.domain.delivery import TEST, Delivery, Due, is_about_a_bulk
from farm.domain.errors import FarmError, InvalidRequest, Problem
from farm.domain.job import Change, Image, Job, Order, Run, State, Webhook
from farm.domain.preview import Preview
from farm.domain.request import Priority

NAME = "native"

#: Most events that a submit names: each of them once.
_MAX_EVENTS = len(get_args(EventName))


class JobInput(ModelFields):
    """The fields of a submit that concern the job, with any model."""

    model: str
    priority: Priority = "normal"
    webhook_url: Annotated[str, Field(min_length=1)] | None = None
    webhook_events: Annotated[list[EventName], Field(min_length=1, max_length=_MAX_EVENTS)] | None = None


def _input(fields: type[ModelFields]) -> type[JobInput]:
    """Return what the body of a submit may say: the model's own fields, and those of the job."""
    name = fields.__name__.removesuffix("Fields") + "Input"
    bases: tuple[type[ModelFields], ...] = (fields, JobInput)
    return cast("type[JobInput]", create_model(name, __base__=bases, __doc__=fields.__doc__, __module__=__name__))


#: Model → the body of a submit.
INPUTS = {model: _input(fields) for model, fields in FIELDS.items()}


def read(body: Mapping[str, Any], *, model: str, default_seed: int) -> Order:
    """Parse the body of a submit into an order for `model`; `default_seed` is used if the body has no seed."""
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
            raise InvalidRequest([Problem("webhook_url", "it is required with webhook_events", "missing")])
        return None
    names = fields.webhook_events or get_args(EventName)
    return Webhook(fields.webhook_url, frozenset(State(name.removeprefix("job.")) for name in names))


def accepted(job_id: str, base: str) -> answers.AcceptedJob:
    """Build the answer to a submit."""
    url = f"{base}/farm/v1/jobs/{job_id}"
    return {
        "id": job_id,
        "status": "created",
        "urls": {"get": url, "cancel": f"{url}/cancel", "events": f"{url}/events"},
    }


def view(job: Job, links: Links, *, inline: bool = False) -> answers.FarmJob:
    """Build the answer that shows a job. With `inline`, image URLs are data URIs. Raises StorageError."""
    result, request = job.result, job.request
    return {
        "id": job.id,
        "model": job.endpoint,
        "status": job.state,
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
        "has_nsfw_concepts": list(result.flagged) if result and request.safety else [],
        "retry_of": job.retry_of or None,
        "retried_as": job.retried_as or None,
        "timings": result.timings if result else {},
        "warnings": list(result.warnings if result else request.notes),
        "build": result.build if result else None,
        "created_at": clock.iso(job.created_us),
        "started_at": clock.iso(job.started_us) if job.started_us else None,
        "finished_at": clock.iso(job.finished_us) if job.finished_us else None,
    }


def history(
    job: Job, runs: Sequence[Run], deliveries: Sequence[Delivery], *, shows_workers: bool
) -> answers.JobHistory:
    """Build the answer that shows how a job came to where it is."""
    return {
        "id": job.id,
        "caller": job.caller,
        "key_id": job.origin.key_id or None,
        "request_id": job.origin.request_id or None,
        "dialect": job.dialect,
        "attempts": job.attempt,
        "runs": [_run(run, shows_worker=shows_workers) for run in runs],
        "deliveries": [delivery(each) for each in deliveries],
    }


def _run(run: Run, *, shows_worker: bool) -> answers.JobRun:
    return {
        "worker": run.worker if shows_worker else None,
        "host": run.host or None if shows_worker else None,
        "started_at": clock.iso(run.started_us),
        "ended_at": clock.iso(run.ended_us) if run.ended_us else None,
        "step": run.step,
        "reason": run.reason or None,
    }


def _image(image: Image, links: Links, *, inline: bool) -> answers.JobImage:
    return {
        "url": links.data(image) if inline else links.file(image.key),
        "width": image.width,
        "height": image.height,
        "content_type": image.content_type,
        "file_size": image.bytes,
    }


def webhook_body(job: Job, due: Due, links: Links) -> answers.FarmEvent:
    """Build the body of a webhook: the event, and the whole job as it is now."""
    return {
        "type": cast(EventName, f"job.{due.event}"),
        "timestamp": clock.iso(due.created_us),
        "sequence": due.sequence,
        "data": view(job, links),
    }


def test_event(due: Due) -> answers.TestEvent:
    """Build the body of the webhook that tests a receiver."""
    return {"type": "test", "timestamp": clock.iso(due.created_us), "sequence": 0, "data": {}}


def change(item: Change, links: Links) -> answers.JobChange:
    """Build the data of an event in the stream of all jobs. It does not name the job's caller."""
    return {
        "id": item.job,
        "model": item.endpoint,
        "status": item.state,
        "code": item.code or None,
        "sequence": item.sequence,
        "at": clock.iso(item.moment.ms * 1000, timespec="milliseconds"),
        "urls": {"get": f"{links.base}/farm/v1/jobs/{item.job}"},
    }


def preview(job_id: str, item: Preview) -> answers.JobPreview:
    """Build the data of an event that shows how an image of a job looks so far."""
    return {"id": job_id, "image": item.image, "step": item.step, "url": item.url}


def delivery(item: Delivery) -> answers.FarmDelivery:
    """Build the answer that shows a delivery and its attempts."""
    return {
        "id": item.id,
        "job": item.job if item.event != TEST else None,
        "event": item.event if item.event == TEST or is_about_a_bulk(item.event) else f"job.{item.event}",
        "sequence": item.sequence,
        "receiver": item.receiver,
        "status": item.state,
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


def bulk(item: Bulk, *, now_us: int) -> answers.FarmBulk:
    """Build the answer that shows how far a bulk is."""
    ended = item.completed + item.failed
    minutes = (now_us - item.reached_us.get(BulkState.IN_PROGRESS, now_us)) / 60e6
    rate = ended / minutes if ended and minutes > 0 else None
    return {
        "id": item.id,
        "status": item.state,
        "total": item.total,
        "completed": item.completed,
        "failed": item.failed,
        "requests_per_minute": round(rate, 3) if rate else None,
        "seconds_left": round((item.total - ended) / rate * 60, 3) if rate else None,
        "created_at": clock.iso(item.created_us),
        "expires_at": clock.iso(item.expires_us),
    }


def worker(
    worker_id: str, facts: Mapping[str, str], running: Sequence[Job], *, silent_seconds: float, now_us: int
) -> answers.FarmWorker:
    """Build the answer that shows a worker and the jobs that it holds."""
    pid = facts.get("pid")
    return {
        "id": worker_id,
        "state": facts.get("state", "unknown"),
        "host": facts.get("host"),
        "pid": int(pid) if pid else None,
        "version": facts.get("version"),
        "device": facts.get("device"),
        "models": loaded_models(facts),
        "weights": facts.get("weights"),
        "build": facts.get("build"),
        "safety": facts.get("safety"),
        "jobs": int(facts.get("jobs", 0)),
        "running": [{"id": job.id, "step": job.step, "steps": job.steps} for job in running],
        "busy_seconds": float(facts.get("busy_seconds_total", 0)),
        "seen_at": clock.iso(now_us - round(silent_seconds * 1e6)),
        "silent_seconds": silent_seconds,
    }


def model_limits(model: Model) -> answers.ModelLimits:
    """Build the part of an answer that shows what a submit may ask of a model."""
    parameters, sides = model.parameters_in(NAME), model.sides_in(NAME)
    return {
        "num_inference_steps": _range(parameters.steps),
        "guidance_scale": _number_range(parameters.guidance),
        "strength": _number_range(parameters.strength) if parameters.strength else None,
        "input_images": {"min": model.min_inputs, "max": model.max_inputs},
        "sides": {"min": sides.min, "max": sides.max},
    }


def _range(integers: Range[int]) -> answers.IntegerRange:
    return {"min": integers.min, "max": integers.max, "default": integers.default}


def _number_range(numbers: Range[float]) -> answers.NumberRange:
    return {"min": numbers.min, "max": numbers.max, "default": numbers.default}


def model_worker(worker_id: str, facts: Mapping[str, str]) -> answers.ModelWorker:
    """Build the part of an answer that shows a worker which has a model loaded."""
    return {
        "id": worker_id,
        "state": facts.get("state", "unknown"),
        "host": facts.get("host"),
        "device": facts.get("device"),
    }


def loaded_models(facts: Mapping[str, str]) -> list[str]:
    """Return the names of the models that a worker has loaded."""
    return [name for name in facts.get("models", "").split(",") if name]


def error_response(status: int, error: FarmError) -> ErrorResponse:
    """Build the error response: problem details."""
    return ErrorResponse(
        status, problem(status, HTTPStatus(status).phrase, error), media_type="application/problem+json"
    )


def problem(status: int, title: str, error: FarmError) -> answers.Problem:
    """Build problem details; `errors` names each invalid field."""
    body: answers.Problem = {
        "type": "about:blank",
        "title": title,
        "status": status,
        "code": error.code,
        "detail": str(error),
    }
    if isinstance(error, InvalidRequest):
        body["errors"] = [{"field": item.field, "message": item.message, "type": item.kind} for item in error.problems]
    return body
