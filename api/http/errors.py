"""Errors as responses: every refusal in the dialect of the path that was called, with the status of its code."""

from __future__ import annotations

from collections.abc import Callable
from http import HTTPStatus

import flask
import structlog
from werkzeug.exceptions import HTTPException, MethodNotAllowed, NotFound

from api.http.request_id import request_id
from farm.dialects import registry
from farm.domain import errors
from farm.domain.error_codes import Code

_log = structlog.get_logger(__name__)

#: The codes of errors that werkzeug raises, by HTTP status.
_HTTP_CODES: dict[int, Code] = {
    HTTPStatus.BAD_REQUEST: Code.BAD_REQUEST,
    HTTPStatus.NOT_FOUND: Code.NOT_FOUND,
    HTTPStatus.METHOD_NOT_ALLOWED: Code.METHOD_NOT_ALLOWED,
    HTTPStatus.REQUEST_TIMEOUT: Code.BODY_TIMEOUT,
    HTTPStatus.PRECONDITION_FAILED: Code.PRECONDITION_FAILED,
    HTTPStatus.REQUEST_ENTITY_TOO_LARGE: Code.BODY_TOO_LARGE,
    HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE: Code.RANGE_NOT_SATISFIABLE,
}


class BadHttp(errors.FarmError):
    """A request that the HTTP layer refuses."""

    def __init__(self, status: int, message: str) -> None:
        self.code = _HTTP_CODES.get(status, Code.BAD_REQUEST if status < 500 else Code.INTERNAL_ERROR)
        super().__init__(message)


def _log_refusal(status: int, error: errors.FarmError) -> None:
    """Log a refused submit, and any failure of the farm itself, with the detail that callers are not told.

    The message of a refused submit is left out: it may repeat what the caller sent.
    """
    if status >= 500:
        _log.warning("call failed", **_call(error), error=errors.with_detail(error))
    elif flask.request.method == "POST":
        fields = [problem.field for problem in error.problems] if isinstance(error, errors.InvalidRequest) else None
        _log.info("call refused", **_call(error), status=status, fields=fields)


def _call(error: errors.FarmError) -> dict[str, str | None]:
    rule, caller = flask.request.url_rule, flask.g.get("caller")
    return {
        "code": error.code,
        "route": rule.rule if rule else "none",
        "key": caller.key_id or None if caller else None,
        "request_id": request_id(),
    }


def install(app: flask.Flask, count: Callable[[str], None]) -> None:
    """Answer every error of `app` in JSON, and `count` it by its code."""

    def refuse(status: int, error: errors.FarmError) -> None:
        count(error.code)
        _log_refusal(status, error)

    def from_farm(error: errors.FarmError) -> flask.Response:
        status = error.call_failure.status
        refuse(status, error)
        return answer(status, error)

    def from_http(error: HTTPException) -> flask.Response:
        refusal = BadHttp(error.code or 500, _message(error.code or 500, error))
        refuse(error.code or 500, refusal)
        return _from_http(error, refusal)

    def from_bug(error: Exception) -> flask.Response:
        count(errors.FarmError.code)
        return _from_bug(error)

    app.register_error_handler(errors.FarmError, from_farm)
    app.register_error_handler(HTTPException, from_http)
    app.register_error_handler(Exception, from_bug)


def _from_http(error: HTTPException, refusal: BadHttp) -> flask.Response:
    response = answer(error.code or 500, refusal)
    for name, value in error.get_headers():
        if name in ("Allow", "Retry-After"):
            response.headers[name] = value
    return response


def _message(status: int, error: HTTPException) -> str:
    """Return what is wrong and what to do: werkzeug's own texts address people who type URLs."""
    if status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
        return f"The request body is too large; allowed: up to {flask.request.max_content_length} bytes."
    if isinstance(error, NotFound):
        return f"Not found: '{flask.request.path[:200]}'. See /docs."
    if isinstance(error, MethodNotAllowed):
        return f"{flask.request.method} is not allowed here; allowed: {', '.join(sorted(error.valid_methods or ()))}."
    return error.description or HTTPStatus(status).phrase


def _from_bug(error: Exception) -> flask.Response:
    # The caller gets JSON, the log gets the traceback.
    _log.error("unexpected error", **_call(errors.FarmError()), exc_info=error)
    return answer(500, errors.FarmError())


def answer(status: int, error: errors.FarmError) -> flask.Response:
    """Return `error` in the dialect of the current call: the one its route has chosen, or that of its path."""
    dialect = flask.g.get("dialect") or registry.dialect_for_path(flask.request.path)
    error_response = dialect.error_response(status, error)
    response = flask.jsonify(error_response.body)
    response.status_code, response.mimetype = error_response.status, error_response.media_type
    response.headers.update(error_response.headers)
    if error.retry_after is not None:
        response.headers["Retry-After"] = str(error.retry_after)
    return response
