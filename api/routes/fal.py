"""Routes of fal's queue with its status stream, and of its direct call, which submits and waits."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, cast, get_args

import flask
from werkzeug.exceptions import BadRequest

from api.admission.sse import CHECK_SECONDS, COMMENT, event
from api.context import ApiContext
from api.http import fal_hosts, query
from api.http.body import IMAGES_BODY, read_body
from farm import clock
from farm.auth.api_keys import Caller
from farm.dialects import fal
from farm.dialects.answers.fal import FalHandle, FalLogLine, FalStatus
from farm.dialects.links import Links
from farm.domain.catalogue import Model
from farm.domain.errors import (
    FarmError,
    InvalidRequest,
    NotFound,
    Problem,
    QueueTooLong,
    StorageUnavailable,
    StoreUnavailable,
    Unauthorized,
    UnknownModel,
)
from farm.domain.job import Conditions, Job, Order, State, Webhook
from farm.domain.request import Priority
from farm.service import Service, random_seed

_PRIORITY = "X-Fal-Queue-Priority"
_REQUEST = "/queue/<path:app>/requests/<request_id>"
#: As the JavaScript client, the Python client, and Python's `str` write it.
_ON, _OFF = ("1", "true", "True"), ("0", "false", "False")


def routes(context: ApiContext) -> flask.Blueprint:
    blueprint = flask.Blueprint("fal", __name__, url_prefix="/fal")

    @blueprint.before_request
    def refuse_tokens() -> None:
        if "fal_jwt_token" in flask.request.args:
            message = "Tokens in the URL are not accepted, because URLs are logged; send 'Authorization: Key <key>'."
            raise Unauthorized(message)

    @blueprint.after_request
    def name_the_request(response: flask.Response) -> flask.Response:
        if request_id := flask.g.get("request_id"):
            response.headers["x-fal-request-id"] = request_id
        return response

    _add_submits(blueprint, context)
    _add_requests(blueprint, context)
    return blueprint


def _add_submits(blueprint: flask.Blueprint, context: ApiContext) -> None:
    """Add the submit to the queue and the direct call."""
    service, authenticator = context.service, context.authenticator

    @blueprint.post("/queue/<path_except('.*/requests/'):endpoint>")
    def submit(endpoint: str) -> FalHandle:
        caller = authenticator.submitter()
        query.refuse_others("fal_webhook", "fal_max_queue_length")
        order, model = _order(context, endpoint.rstrip("/"))
        _refuse_long_queue(service, model, caller, order)
        job = _about(service.submit_and_get(caller, replace(order, webhook=_webhook())))
        position = 0
        with suppress(StoreUnavailable):  # the job is accepted, so an unknown position is not an error
            position = _position(service, job)
        return fal.submitted(job, _queue(context.links), position=position)

    @blueprint.post("/run/<path:endpoint>")
    def run(endpoint: str) -> flask.Response:
        caller = authenticator.submitter()
        query.refuse_others()
        order, _ = _order(context, endpoint.rstrip("/"))
        job = _about(context.held_calls.job(caller, order))
        # The job is accepted: after a retryable error, clients would submit it again.
        with suppress(StorageUnavailable):
            if job.state.is_terminal:
                return _outcome(job, context.links)
        return _timed_out(order.endpoint, job.id, context.links)


def _add_requests(blueprint: flask.Blueprint, context: ApiContext) -> None:
    """Add what follows a submit: status, status stream, result and cancel.

    With a slash and without: with `strict_slashes=False`, a wrong method would be answered as an unknown path.
    """
    service, authenticator = context.service, context.authenticator

    @blueprint.get(f"{_REQUEST}/status/")
    @blueprint.get(f"{_REQUEST}/status")
    def status(app: str, request_id: str) -> tuple[FalStatus, int]:
        job = find(app, request_id)
        query.refuse_others("logs")
        logs = fal.logs(job, seen_us=clock.now_us()) if _wants_logs() else None
        answer = fal.status(job, _queue(context.links), position=_position(service, job), logs=logs)
        return answer, 200 if job.state.is_terminal else 202

    @blueprint.get(f"{_REQUEST}/status/stream/")
    @blueprint.get(f"{_REQUEST}/status/stream")
    def status_stream(app: str, request_id: str) -> flask.Response:
        job = find(app, request_id)
        query.refuse_others("logs")
        stream = StatusStream(service, context.links, with_logs=_wants_logs())
        watched = service.watch(authenticator.caller(), job.id, idle_seconds=CHECK_SECONDS)
        return context.streams.answer(stream.blocks(watched), may_stay=authenticator.key_still_valid())

    @blueprint.get(f"{_REQUEST}/")
    @blueprint.get(_REQUEST)
    @blueprint.get(f"{_REQUEST}/response/")
    @blueprint.get(f"{_REQUEST}/response")
    def result(app: str, request_id: str) -> flask.Response:
        job = find(app, request_id)
        query.refuse_others()
        return _outcome(job, context.links) if job.state.is_terminal else _answer(400, fal.unfinished())

    @blueprint.put(f"{_REQUEST}/cancel/")
    @blueprint.put(f"{_REQUEST}/cancel")
    def cancel(app: str, request_id: str) -> flask.Response:
        job = find(app, request_id)
        query.refuse_others()
        return _answer(*fal.cancelled(service.cancel(authenticator.caller(), job.id)))

    def find(app: str, request_id: str) -> Job:
        """Return a request by owner and alias, as clients send them, or by the whole endpoint. Raises NotFound."""
        job = service.get(authenticator.caller(), request_id)
        if app not in (fal.application(job.endpoint), job.endpoint):
            raise NotFound(f"No job has the id '{request_id}'.")
        return _about(job)


class StatusStream:
    """A stream of statuses. Clients collect the log lines, so each line is sent once."""

    def __init__(self, service: Service, links: Links, *, with_logs: bool) -> None:
        self._service = service
        self._queue = _queue(links)
        self._with_logs = with_logs
        self._messages: set[str] = set()

    def blocks(self, watched: Iterator[Job | None]) -> Iterator[str]:
        """Yield an event for each change of state or queue position; the last one is the end of the request."""
        last = None
        seen: Job | None = None
        # The response has started, so an error can only end the stream; the client then gets the result.
        with suppress(FarmError):
            for job in watched:
                seen = job or seen
                assert seen is not None
                position = _position(self._service, seen)
                if job is None and position == last:
                    yield COMMENT
                else:
                    last = position
                    yield event("", fal.status(seen, self._queue, position=position, logs=self._new_lines(seen)))

    def _new_lines(self, job: Job) -> list[FalLogLine] | None:
        if not self._with_logs:
            return None
        lines = [line for line in fal.logs(job, seen_us=clock.now_us()) if line["message"] not in self._messages]
        self._messages.update(line["message"] for line in lines)
        return lines


def _about(job: Job) -> Job:
    """Return `job` after setting it as the request id of the response."""
    flask.g.request_id = job.id
    return job


def _order(context: ApiContext, endpoint: str) -> tuple[Order, Model]:
    """Parse the current request into an order. Raises UnknownModel and InvalidRequest."""
    model = context.service.model(endpoint, fal.NAME)
    if endpoint not in (*model.of(fal.NAME), *context.service.aliases(model)):
        raise UnknownModel(f"'{endpoint}' is not a fal model id of this farm; use {', '.join(model.of(fal.NAME))}")
    priority, conditions = _priority(), _conditions(context)
    max_bytes = IMAGES_BODY if model.max_inputs else None
    # fal's JavaScript client sends no body for an empty input.
    body = read_body(fal.NAME, endpoint, priority, str(conditions), instead=b"{}", max_bytes=max_bytes)
    read = partial(fal.read, endpoint=endpoint, model=model.name, default_seed=random_seed())
    order, warnings = context.unknown_fields.read(read, body.fields)
    order = replace(order.with_notes(warnings), priority=priority, conditions=conditions)
    return replace(order, idempotency_key=body.idempotency_key, body_digest=body.digest), model


def _conditions(context: ApiContext) -> Conditions:
    try:
        return fal.conditions(flask.request.headers.get, max_keep_seconds=context.farm.settings.result_ttl)
    except InvalidRequest as error:
        raise BadRequest(str(error)) from error


def _priority() -> Priority:
    text = flask.request.headers.get(_PRIORITY, "normal")
    if text not in get_args(Priority):
        message = f"'{text[:40]}' is not a priority; allowed: {', '.join(get_args(Priority))}"
        raise InvalidRequest([Problem(_PRIORITY, message, "literal_error", text)])
    return cast(Priority, text)


def _webhook() -> Webhook | None:
    url = flask.request.args.get("fal_webhook")
    if url == "":
        message = "it is empty; send a URL, or leave the parameter out"
        raise InvalidRequest([Problem("fal_webhook", message, "string_too_short", "")])
    return None if url is None else Webhook(url)


def _refuse_long_queue(service: Service, model: Model, caller: Caller, order: Order) -> None:
    """Raise QueueTooLong if more requests wait than the caller allows, unless this one waits among them already."""
    max_length = query.integer("fal_max_queue_length", default=None, minimum=0, maximum=2**31)
    if max_length is None or service.has_idempotency_key(caller, order.idempotency_key):
        return
    if (waiting := service.waiting(model)) > max_length:
        raise QueueTooLong(
            f"{waiting} requests wait for '{model.name}', more than fal_max_queue_length={max_length}; try again later."
        )


def _wants_logs() -> bool:
    text = flask.request.args.get("logs", "0")
    if text not in (*_ON, *_OFF):
        raise InvalidRequest([Problem("logs", f"allowed: {', '.join((*_ON, *_OFF))}", "bool_parsing", text)])
    return text in _ON


def _position(service: Service, job: Job) -> int:
    return service.position(job) if job.state is State.CREATED else 0


def _queue(links: Links) -> str:
    return fal_hosts.address(fal_hosts.QUEUE, links.base)


def _outcome(job: Job, links: Links) -> flask.Response:
    return _answer(*fal.outcome(job, links))


def _timed_out(endpoint: str, job_id: str, links: Links) -> flask.Response:
    return _answer(504, fal.timed_out(endpoint, job_id, _queue(links)))


def _answer(status: int, body: Mapping[str, Any]) -> flask.Response:
    response = flask.jsonify(body)
    response.status_code = status
    response.headers.update(fal.error_headers(body))
    return response
