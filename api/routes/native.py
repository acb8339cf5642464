"""`/farm/v1`: the farm's own way in. Acts on jobs of every dialect."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import flask

from api.auth import Doorman
from api.body import read_body
from api.streams import Streams
from farm.catalogue import MODELS
from farm.dialects import native
from farm.errors import FarmError, Forbidden, InvalidRequest, Problem
from farm.job import Job, State
from farm.jobstore.census import Census
from farm.service import Order, Service, random_seed

#: Silence after which a stream of events sends a comment, in seconds, so that nothing on the way closes it.
COMMENT_SECONDS = 15.0
MAX_PAGE = 100


def routes(service: Service, *, census: Census, doorman: Doorman, streams: Streams, base: str) -> flask.Blueprint:
    """The blueprint; `base` begins every URL it hands out."""
    blueprint = flask.Blueprint("native", __name__, url_prefix="/farm/v1")

    @blueprint.post("/jobs")
    def submit() -> tuple[dict[str, Any], int, dict[str, str]]:
        caller = doorman.caller()
        body = read_body()
        endpoint = _endpoint(body.fields)
        model = service.model(endpoint)
        request, priority = native.read(body.fields, model=model.name, spare_seed=random_seed())
        order = Order(endpoint, request, priority, body.idempotency_key, body.digest)
        accepted = service.submit(caller, order)
        headers = {"Idempotent-Replayed": "true"} if accepted.repeated else {}
        return native.accepted(accepted.id, base), 202, headers

    @blueprint.get("/jobs")
    def page() -> dict[str, Any]:
        caller = doorman.caller()
        count = _whole("limit", default=20, least=1, most=MAX_PAGE)
        before = _whole("before", default=None, least=0, most=2**53)
        wanted = _states()
        jobs = service.page(caller, before_us=before, count=count or MAX_PAGE)
        shown = [native.view(job, base) for job in jobs if job.state in wanted]
        following = jobs[-1].created_us if jobs and len(jobs) == count else None
        return {"jobs": shown, "before": following}

    @blueprint.get("/jobs/<job_id>")
    def get(job_id: str) -> dict[str, Any]:
        return native.view(service.get(doorman.caller(), job_id), base)

    @blueprint.delete("/jobs/<job_id>")
    def delete(job_id: str) -> tuple[str, int]:
        service.delete(doorman.caller(), job_id)
        return "", 204

    @blueprint.post("/jobs/<job_id>/cancel")
    def cancel(job_id: str) -> tuple[dict[str, Any], int]:
        outcome = service.cancel(doorman.caller(), job_id)
        return {"id": job_id, "outcome": outcome}, 202 if outcome == "stopping" else 200

    @blueprint.get("/jobs/<job_id>/events")
    def events(job_id: str) -> flask.Response:
        watched = service.watch(doorman.caller(), job_id, idle_seconds=COMMENT_SECONDS)
        first = next(watched)  # an unknown job is refused before the stream begins
        assert first is not None
        return streams.answer(_events(first, watched, base))

    @blueprint.get("/queue")
    def queue() -> dict[str, Any]:
        doorman.caller()
        lanes = [
            {"model": q.model, "priority": q.priority, "jobs": q.jobs, "oldest_seconds": q.oldest_seconds}
            for q in census.queues()
        ]
        return {"waiting": sum(lane["jobs"] for lane in lanes), "processing": census.processing(), "queues": lanes}

    @blueprint.get("/workers")
    def workers() -> dict[str, Any]:
        if not doorman.caller().is_admin:
            raise Forbidden("Only an admin key may see the workers.")
        return {"workers": [{"id": w.id, "silent_seconds": w.silent_seconds, **w.facts} for w in census.workers()]}

    @blueprint.get("/models")
    def models() -> dict[str, Any]:
        doorman.caller()
        served = service.served()
        return {
            "models": [
                {
                    "name": model.name,
                    "title": model.title,
                    "ids": list(model.ids),
                    "served": model.name in served,
                    "weights": served[model.name].weights if model.name in served else None,
                    "safety": served[model.name].safety if model.name in served else None,
                }
                for model in MODELS
            ]
        }

    return blueprint


def _endpoint(body: dict[str, Any]) -> str:
    endpoint = body.get("model")
    if not isinstance(endpoint, str):
        kind = "missing" if endpoint is None else "string_type"
        raise InvalidRequest([Problem("model", "the id of a model is required, as a string", kind, endpoint)])
    return endpoint


def _whole(name: str, *, default: int | None, least: int, most: int) -> int | None:
    text = flask.request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise InvalidRequest([Problem(name, f"allowed: a whole number from {least} to {most}", "int_parsing", text)])
    return int(text)


def _states() -> frozenset[State]:
    text = flask.request.args.get("status")
    if text is None:
        return frozenset(State)
    if text not in list(State):
        raise InvalidRequest([Problem("status", f"allowed: {', '.join(State)}", "enum", text)])
    return frozenset({State(text)})


def _events(first: Job, later: Iterator[Job | None], base: str) -> Iterator[str]:
    """Server-sent events, each with the whole present state. `id` is sequence.step, growing."""
    yield _event(first, base)
    try:
        for job in later:
            yield ": still here\n\n" if job is None else _event(job, base)
    except FarmError as error:
        # The stream has begun, so the status is sent; the client reconnects and learns more.
        yield f"event: error\ndata: {json.dumps({'code': error.code, 'message': str(error)})}\n\n"


def _event(job: Job, base: str) -> str:
    data = json.dumps(native.view(job, base), separators=(",", ":"))
    return f"id: {job.sequence}.{job.step}\nevent: job.{job.state}\ndata: {data}\n\n"
