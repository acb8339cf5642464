"""The caller of the current request, for what is shared out among callers."""

from __future__ import annotations

import flask


def current_caller_id() -> str:
    """Return the id of the caller of the current request, or an empty one if it has not been authenticated yet."""
    caller = flask.g.get("caller")
    return caller.id if caller else ""
