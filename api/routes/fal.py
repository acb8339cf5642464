"""`/fal/queue` and `/fal/run`: fal's queue, and its direct call, which submits and waits."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from dataclasses import replace
from typing import Any, cast, get_args

import flask

from api import hosts, query
from api.body import read_body
from api.house import House
from farm import clock
from farm.catalogue import Model
from farm.dialects import fal
from farm.errors import InvalidRequest, NotFound, Problem, QueueFull, StorageUnavailable, StoreUnavailable, UnknownModel
from farm.job import Job, Order, State, Webhook
from farm.links import Links
from farm.request import Priority
from farm.service import Service, random_seed

_PRIORITY = "X-Fal-Queue-Priority"
_REQUEST = "/queue/<path:app>/requests/<request_id>"
_ON, _OFF = ("1", "true"), ("0", "false")


def routes(house: House) -> flask.Blueprint:
    service, doorman, held, links = house.service, house.doorman, house.held, house.links
    blueprint = flask.Blueprint("fal", __name__, url_prefix="/fal")

    @blueprint.post("/queue/<other_than('.*/requests/'):endpoint>")
    def submit(endpoint: str) -> dict[str, Any]:
        caller = doorman.caller()
        query.refuse_others("fal_webhook", "fal_max_queue_length")
        order, model = _order(service, endpoint.rstrip("/"))
        _refuse_long_queue(service, model)
        accepted = service.submit(caller, replace(order, webhook=_webhook()))
        job = _about(service.get(caller, accepted.id))
        return fal.submitted(job, _queue(links), position=_position(service, job))

    # Each with a slash and without: a rule that takes both takes a wrong method for an unknown path.
    @blueprint.get(f"{_REQUEST}/status/")
    @blueprint.get(f"{_REQUEST}/status")
    def status(app: str, request_id: str) -> tuple[dict[str, Any], int]:
        job = find(app, request_id)
        query.refuse_others("logs")
        logs = fal.logs(job, seen_us=clock.now_us()) if _wants_logs() else None
        answer = fal.status(job, _queue(links), position=_position(service, job), logs=logs)
        return answer, 200 if job.state.is_terminal else 202

    @blueprint.get(f"{_REQUEST}/")
    @blueprint.get(_REQUEST)
    @blueprint.get(f"{_REQUEST}/response/")
    @blueprint.get(f"{_REQUEST}/response")
    def result(app: str, request_id: str) -> flask.Response:
        job = find(app, request_id)
        query.refuse_others()
        return _outcome(job, links) if job.state.is_terminal else _answer(400, fal.unfinished())

    @blueprint.put(f"{_REQUEST}/cancel/")
    @blueprint.put(f"{_REQUEST}/cancel")
    def cancel(app: str, request_id: str) -> flask.Response:
        job = find(app, request_id)
        query.refuse_others()
        return _answer(*fal.cancelled(service.cancel(doorman.caller(), job.id)))

    @blueprint.post("/run/<path:endpoint>")
    def run(endpoint: str) -> flask.Response:
        caller = doorman.caller()
        query.refuse_others()
        order, _ = _order(service, endpoint.rstrip("/"))
        with held.place():
            accepted = service.submit(caller, order)
            flask.g.request_id = accepted.id
            # The job is accepted: an error that says "later" would have clients make a second one of it.
            with suppress(StoreUnavailable, StorageUnavailable):
                job = held.wait(caller, accepted.id)
                if job.state.is_terminal:
                    return _outcome(job, links)
        return _overdue(order.endpoint, accepted.id, links)

    @blueprint.after_request
    def name_the_request(response: flask.Response) -> flask.Response:
        if request_id := flask.g.get("request_id"):
            response.headers["x-fal-request-id"] = request_id
        return response

    def find(app: str, request_id: str) -> Job:
        """The request. Clients ask by owner and alias, people also by the whole endpoint. Raises NotFound."""
        job = service.get(doorman.caller(), request_id)
        if app not in (fal.application(job.endpoint), job.endpoint):
            raise NotFound(f"No job has the id '{request_id}'.")
        return _about(job)

    return blueprint


def _about(job: Job) -> Job:
    """`job`, to be named in the header of the answer, whatever that is."""
    flask.g.request_id = job.id
    return job


def _order(service: Service, endpoint: str) -> tuple[Order, Model]:
    """What the current request asks for."""
    model = service.model(endpoint)
    if endpoint not in model.of(fal.NAME):
        raise UnknownModel(f"'{endpoint}' is no fal id here; allowed: {', '.join(model.of(fal.NAME))}")
    priority = _priority()
    # fal's JavaScript client sends an empty input as no body at all.
    body = read_body(fal.NAME, endpoint, priority, instead=b"{}")
    order = fal.read(body.fields, endpoint=endpoint, model=model.name, spare_seed=random_seed())
    order = replace(order, priority=priority, idempotency_key=body.idempotency_key, body_digest=body.digest)
    return order, model


def _priority() -> Priority:
    text = flask.request.headers.get(_PRIORITY, "normal")
    if text not in get_args(Priority):
        message = f"'{text[:40]}' is no priority; allowed: {', '.join(get_args(Priority))}"
        raise InvalidRequest([Problem(_PRIORITY, message, "literal_error", text)])
    return cast(Priority, text)


def _webhook() -> Webhook | None:
    url = flask.request.args.get("fal_webhook")
    if url == "":
        message = "a URL is required; leave the parameter out for none"
        raise InvalidRequest([Problem("fal_webhook", message, "string_too_short", "")])
    return None if url is None else Webhook(url)


def _refuse_long_queue(service: Service, model: Model) -> None:
    most = query.whole("fal_max_queue_length", default=None, least=0, most=2**31)
    if most is not None and (waiting := service.waiting(model)) > most:
        raise QueueFull(f"{waiting} requests wait for '{model.name}', more than fal_max_queue_length={most}.")


def _wants_logs() -> bool:
    text = flask.request.args.get("logs", "0").lower()
    if text not in (*_ON, *_OFF):
        raise InvalidRequest([Problem("logs", f"allowed: {', '.join((*_ON, *_OFF))}", "bool_parsing", text)])
    return text in _ON


def _position(service: Service, job: Job) -> int:
    return service.position(job) if job.state is State.CREATED else 0


def _queue(links: Links) -> str:
    return hosts.address(hosts.QUEUE, links.base)


def _outcome(job: Job, links: Links) -> flask.Response:
    return _answer(*fal.outcome(job, links))


def _overdue(endpoint: str, job_id: str, links: Links) -> flask.Response:
    response = _answer(504, fal.overdue(endpoint, job_id, _queue(links)))
    # To the clients this says that waiting was the caller's own choice: they do not send the request again.
    response.headers["X-Fal-Request-Timeout-Type"] = "user"
    return response


def _answer(status: int, body: Mapping[str, Any]) -> flask.Response:
    response = flask.jsonify(body)
    response.status_code = status
    response.headers.update(fal.error_headers(body))
    return response
