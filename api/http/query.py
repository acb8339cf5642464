"""Query parameters: read within their limits, and refused by name."""

from __future__ import annotations

import flask

from farm.dialects.fields import UNKNOWN_PARAMETER
from farm.domain.errors import InvalidRequest, Problem

MAX_PAGE = 100
DEFAULT_PAGE = 20
#: The latest time to list before, in microseconds since the epoch: what a JavaScript number and a double hold exactly.
MAX_TIME_US = 2**53


def refuse_others(*known: str) -> None:
    """Raise InvalidRequest for query parameters other than `known`, and for those given twice."""
    if not flask.request.query_string:
        return
    problems = []
    for name, values in flask.request.args.lists():
        if name not in known:
            allowed = ", ".join(known) or "none"
            problems.append(Problem(name, f"unknown parameter; allowed here: {allowed}", UNKNOWN_PARAMETER))
        elif len(values) > 1:
            problems.append(Problem(name, "given several times; send it once", "too_many", values))
    if problems:
        raise InvalidRequest(problems)


def integer(name: str, *, default: int | None, minimum: int, maximum: int) -> int | None:
    """Return the integer parameter `name`, or `default` if it is not given. Raises InvalidRequest."""
    text = flask.request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and minimum <= int(text) <= maximum):
        raise InvalidRequest(
            [Problem(name, f"allowed: a whole number from {minimum} to {maximum}", "int_parsing", text)]
        )
    return int(text)


def flag(name: str) -> bool:
    """Return True if the parameter `name` is "true", False if it is "false" or not given. Raises InvalidRequest."""
    text = flask.request.args.get(name, "false")
    if text not in ("true", "false"):
        raise InvalidRequest([Problem(name, "allowed: true, false", "bool_parsing", text)])
    return text == "true"


def ids(name: str, *, maximum: int) -> tuple[str, ...]:
    """Return the ids in the parameter `name`, which are separated by commas, each once. Raises InvalidRequest."""
    given = tuple(dict.fromkeys(filter(None, flask.request.args.get(name, "").split(","))))
    if not 0 < len(given) <= maximum:
        message = f"send 1 to {maximum} ids, separated by commas"
        raise InvalidRequest([Problem(name, message, "ids_length", len(given))])
    return given


def page() -> tuple[int, int | None]:
    """Return the page size, and the time before which to list (microseconds since the epoch)."""
    count = integer("limit", default=DEFAULT_PAGE, minimum=1, maximum=MAX_PAGE)
    return count or DEFAULT_PAGE, integer("before", default=None, minimum=0, maximum=MAX_TIME_US)
