"""Errors as answers: the farm's codes to HTTP statuses, every refusal in the dialect of the path it was sent to."""

from __future__ import annotations

from http import HTTPStatus

import flask
import structlog
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from farm.dialects import registry
from farm.domain import errors

_log = structlog.get_logger(__name__)

_STATUS: dict[type[errors.FarmError], int] = {
    errors.InvalidRequest: 422,
    errors.UnknownModel: 404,
    errors.ModelNotServed: 400,
    errors.NotFound: 404,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.QueueFull: 429,
    errors.LimitReached: 429,
    errors.StoreFull: 429,
    errors.TooManyHeld: 429,
    errors.StoreUnavailable: 503,
    errors.StorageUnavailable: 503,
    errors.NotReady: 503,
    errors.IdempotencyConflict: 422,
    errors.NotFinished: 409,
    errors.NotRetryable: 409,
}


class BadHttp(errors.FarmError):
    """The request is not one that this address answers."""

    def __init__(self, status: int, message: str) -> None:
        self.code = HTTPStatus(status).phrase.lower().replace(" ", "_").replace("-", "_")
        super().__init__(message)


def install(app: flask.Flask) -> None:
    """Answer every error of `app` in JSON."""
    app.register_error_handler(errors.FarmError, _from_farm)
    app.register_error_handler(HTTPException, _from_http)
    app.register_error_handler(Exception, _from_bug)


def _from_farm(error: errors.FarmError) -> flask.Response:
    return answer(_STATUS.get(type(error), 500), error)


def _from_http(error: HTTPException) -> flask.Response:
    status = error.code or 500
    response = answer(status, BadHttp(status, _message(status, error)))
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _message(status: int, error: HTTPException) -> str:
    """What is wrong, and what is allowed: werkzeug's own words are for people who type addresses."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return f"The body is too large; allowed: up to {flask.request.max_content_length} bytes."
    if isinstance(error, NotFound):
        return f"There is nothing at '{flask.request.path[:200]}'; what there is, /docs tells."
    if isinstance(error, MethodNotAllowed):
        return f"{flask.request.method} is not allowed here; allowed: {', '.join(sorted(error.valid_methods or ()))}."
    return error.description or HTTPStatus(status).phrase


def _from_bug(error: Exception) -> flask.Response:
    # The last line of defence: the caller gets JSON, the log gets the traceback.
    _log.error("unforeseen error", path=flask.request.path, exc_info=error)
    return answer(500, errors.FarmError())


def answer(status: int, error: errors.FarmError) -> flask.Response:
    """`error` in the dialect of the current call: the one that its route has found out, or that of its path."""
    dialect = flask.g.get("dialect") or registry.dialect_for_path(flask.request.path)
    refusal = dialect.refuse(status, error)
    response = flask.jsonify(refusal.body)
    response.status_code, response.mimetype = refusal.status, refusal.media_type
    response.headers.update(refusal.headers)
    if (retry_after := getattr(error, "retry_after", None)) is not None:
        response.headers["Retry-After"] = str(retry_after)
    return response
