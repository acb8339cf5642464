"""Streams of server-sent events, and the bound on how many of them hold a thread at once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from typing import Any

import flask

from api.admission.caller import current_caller_id
from api.connections.client_connection import Peer
from api.http import query
from farm import clock
from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached, InvalidRequest, Problem

#: Silence after which a stream sends a comment, in seconds, so that nothing on the way closes it.
COMMENT_SECONDS = 15.0
#: How often a quiet stream looks whether its client is still there, in seconds. Whoever feeds it must yield that often.
LOOK_SECONDS = 1.0
#: How long a client waits before it comes back to a stream that broke, in milliseconds.
RETRY_MS = 1000
#: Says nothing. No empty line ends it: some programs would take that for an event.
COMMENT = ": still here\n"


class EventStreams:
    """Hands out at most `most` streams at a time, `most_of_one` of them to one caller. One more must come back."""

    def __init__(self, most: int, most_of_one: int | None = None) -> None:
        self._slots = Slots(most, per_key=most_of_one)
        self._ending = False

    def end(self) -> None:
        """End every stream at its next look: this process stops. Safe in a signal handler."""
        self._ending = True

    def answer(self, blocks: Iterator[str], *, may_stay: Callable[[], bool]) -> flask.Response:
        """A response that sends `blocks` as they come; of comments no more than keep the connection alive.

        It ends when they do, when the client has left or may not stay, and when the API stops.
        """
        client = Peer(flask.request.environ.get("gunicorn.socket"))
        caller = current_caller_id()
        if not self._slots.acquire(caller):
            raise ConcurrencyLimitReached("Too many streams are open; poll instead, or come back.")
        response = flask.Response(self._sent(blocks, client, may_stay), mimetype="text/event-stream")
        response.headers["Cache-Control"] = "no-store"
        response.headers["X-Accel-Buffering"] = "no"
        response.call_on_close(partial(self._slots.release, caller))
        return response

    def _sent(self, blocks: Iterator[str], client: Peer, may_stay: Callable[[], bool]) -> Iterator[str]:
        yield f"retry: {RETRY_MS}\n"
        sent_at = clock.monotonic()
        for block in blocks:
            if self._ending or not may_stay():
                client.hang_up()
                return
            if block.startswith(":"):
                if client.has_left():
                    return
                if clock.monotonic() - sent_at < COMMENT_SECONDS - LOOK_SECONDS:
                    continue  # the next will come in time
            yield block
            sent_at = clock.monotonic()


def event(name: str, data: Mapping[str, Any], place: str = "") -> str:
    """The lines of an event. `place` is its id, which a client shows when it comes back. Either may be empty."""
    head = (f"id: {place}\n" if place else "") + (f"event: {name}\n" if name else "")
    return f"{head}data: {json.dumps(data, separators=(',', ':'))}\n\n"


def last_event_id(separator: str) -> tuple[int, int] | None:
    """The last event that a client has seen, when it comes back: two numbers. Raises InvalidRequest.

    As the header that browsers send, or, from programs that cannot send it, as a parameter.
    """
    query.refuse_others("last_event_id")
    name, text = "Last-Event-ID", flask.request.headers.get("Last-Event-ID", "")
    if not text:
        name, text = "last_event_id", flask.request.args.get("last_event_id", "")
    if not text:
        return None
    first, _, second = text.partition(separator)
    if not (_is_number(first) and _is_number(second)):
        message = f"allowed: the id of an event of this stream, as in 12{separator}0"
        raise InvalidRequest([Problem(name, message, "string_pattern_mismatch", text)])
    return int(first), int(second)


def _is_number(text: str) -> bool:
    return text.isascii() and text.isdigit() and len(text) <= 19 and int(text) < 2**63
