"""Parameters of a URL: read with their limits, refused by name."""

from __future__ import annotations

import flask

from farm.dialects.fields import UNKNOWN_PARAMETER
from farm.domain.errors import InvalidRequest, Problem

MAX_PAGE = 100
DEFAULT_PAGE = 20


def refuse_others(*known: str) -> None:
    """Refuse what the address asks for besides `known`, and what it asks for twice. Raises InvalidRequest."""
    if not flask.request.query_string:
        return
    problems = []
    for name, values in flask.request.args.lists():
        if name not in known:
            allowed = ", ".join(known) or "none"
            problems.append(Problem(name, f"unknown parameter; allowed here: {allowed}", UNKNOWN_PARAMETER))
        elif len(values) > 1:
            problems.append(Problem(name, "this parameter may be given once", "too_many", values))
    if problems:
        raise InvalidRequest(problems)


def whole(name: str, *, default: int | None, least: int, most: int) -> int | None:
    """The whole number called `name`, or `default` where it is not given. Raises InvalidRequest."""
    text = flask.request.args.get(name)
    if text is None:
        return default
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and least <= int(text) <= most):
        raise InvalidRequest([Problem(name, f"allowed: a whole number from {least} to {most}", "int_parsing", text)])
    return int(text)


def page() -> tuple[int, int | None]:
    """How many to show, and before which moment (microseconds since the epoch)."""
    count = whole("limit", default=DEFAULT_PAGE, least=1, most=MAX_PAGE)
    return count or DEFAULT_PAGE, whole("before", default=None, least=0, most=2**53)
