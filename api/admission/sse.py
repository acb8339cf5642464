"""Server-sent events, and the limit on how many streams hold a thread at a time."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flask

from api.admission.caller import current_caller_id
from api.connections.client_connection import ClientConnection
from api.http import query
from farm import clock
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached, InvalidRequest, Problem

#: Seconds without an event after which a stream sends a comment, so that no proxy closes it.
COMMENT_SECONDS = 15.0
#: Seconds between checks that the client is still connected. The source of a stream must yield that often.
CHECK_SECONDS = 1.0
#: How long a client waits before it reconnects to a stream that broke, in milliseconds.
RETRY_MS = 1000
#: A keep-alive comment. No empty line ends it: some programs would take that for an event.
COMMENT = ": still here\n"


class EventStreams:
    """At most `max_streams` streams at a time, of one caller at most `per_caller`; others are refused."""

    def __init__(self, max_streams: int, per_caller: int | None = None) -> None:
        self._slots = Slots(max_streams, per_key=per_caller)
        self._ending = False
        self.max_streams = max_streams

    @property
    def count(self) -> int:
        """The number of open streams."""
        return self.max_streams - self._slots.free

    def end(self) -> None:
        """End every stream at its next check: this process stops. Safe in a signal handler."""
        self._ending = True

    def answer(self, blocks: Iterator[str], *, may_stay: Callable[[], bool]) -> flask.Response:
        """Return a response that sends `blocks` as they come, and of comments only what keeps the connection alive.

        It ends with them, when the client has disconnected or may not stay, and when the API stops.
        """
        client = ClientConnection.of(flask.request.environ)
        caller = current_caller_id()
        if not self._slots.acquire(caller):
            raise ConcurrencyLimitReached("Too many streams are open; poll instead, or try again later.")
        response = flask.Response(self._sent(blocks, client, may_stay), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
        response.call_on_close(partial(self._slots.release, caller))
        return response

    def _sent(self, blocks: Iterator[str], client: ClientConnection, may_stay: Callable[[], bool]) -> Iterator[str]:
        yield f"retry: {RETRY_MS}\n"
        sent_at = clock.monotonic()
        for block in blocks:
            if self._ending or not may_stay():
                client.hang_up()
                return
            if block.startswith(":"):
                if client.has_disconnected():
                    return
                if clock.monotonic() - sent_at < COMMENT_SECONDS - CHECK_SECONDS:
                    continue  # the next one is early enough
            yield block
            sent_at = clock.monotonic()


def event(name: str, data: Mapping[str, Any], event_id: str = "") -> str:
    """Return the lines of an event. Name and id may be empty; a client that reconnects sends its last id."""
    head = (f"id: {event_id}\n" if event_id else "") + (f"event: {name}\n" if name else "")
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n"


def last_event_id(separator: str, *parameters: str) -> tuple[int, int] | None:
    """Return the id of the last event that a reconnecting client has seen: two numbers. Raises InvalidRequest.

    It is in the header that browsers send or, from programs that cannot send it, in the query. `parameters`: others
    that the query may have.
    """
    query.refuse_others("last_event_id", *parameters)
    name, text = "Last-Event-ID", flask.request.headers.get("Last-Event-ID", "")
    if not text:
        name, text = "last_event_id", flask.request.args.get("last_event_id", "")
    if not text:
        return None
    first, _, second = text.partition(separator)
    if not (_is_number(first) and _is_number(second)):
        message = f"send the id of an event of this stream, such as 12{separator}0"
        raise InvalidRequest([Problem(name, message, "string_pattern_mismatch", text)])
    return int(first), int(second)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63
