"""The event feed: changes of all jobs as they happen, read from the outbox once for any number of subscribers."""

from __future__ import annotations

import threading
from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from typing import Any, cast

import redis

from farm import clock
from farm.concurrency.background_thread import BackgroundThread
from farm.domain.job import BEGINNING, Change, Moment, State
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated

#: How many of the newest changes are kept in memory, and how many are read at a time.
_MAX_KEPT = 5_000
_MAX_READ = 1000
#: How many changes a subscriber gets at once, and so how many its connection may have to wait for.
_PAGE_SIZE = 200
#: How long one read blocks, in milliseconds: less than a connection waits for an answer.
_BLOCK_MS = 500
#: Pause after each read, in seconds: changes close together wake the subscribers once.
_PAUSE_SECONDS = 0.05
#: Silence of the reader, in seconds, after which the outbox may have been trimmed beyond its cursor.
_MAX_SILENCE_SECONDS = 5.0
_RECONNECT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class FeedPage:
    """Changes that a subscriber gets at once. It has now seen everything up to `upto`."""

    changes: tuple[Change, ...]
    upto: Moment
    #: Some changes between the last page and this one are lost.
    gap: bool = False

    def of(self, caller: str | None) -> FeedPage:
        """Return the same page for the jobs of one caller (None: of all callers)."""
        if caller is None:
            return self
        return replace(self, changes=tuple(change for change in self.changes if change.caller == caller))


class EventFeed:
    """Publishes the changes of all jobs to any number of subscribers. Without subscribers it costs nothing.

    A subscriber has a cursor in the order of all changes, and nothing else: a slow one holds no memory. One thread
    reads the outbox and keeps the newest changes. A subscriber whose cursor is not among them reads Redis itself, page
    by page, until it has caught up. So a reader that lost its connection or its cursor just starts anew at the present.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._subscribers = 0
        self._reader = BackgroundThread("event feed", self._read, pause=self._reconnect_pause)
        self._changed = threading.Condition()
        # Every change after `_since`, up to `_upto`.
        self._changes: list[Change] = []
        self._since = self._upto = BEGINNING

    def follow(self, after: Moment | None, *, caller: str | None, idle_seconds: float) -> Iterator[FeedPage]:
        """Yield the changes of one caller's jobs (None: of all callers') after a moment (None: the present).

        The first page comes at once, later ones at least every `idle_seconds` or so; pages may be empty. Raises
        StoreUnavailable before the first page; later an outage of Redis is a pause.
        """
        with translated():
            page = FeedPage((), self._newest()) if after is None else self._read_page(after)
        with self._subscribed():
            while True:
                yield page.of(caller)
                page = self._next(page.upto, idle_seconds)

    @contextmanager
    def _subscribed(self) -> Iterator[None]:
        with self._changed:
            if not self._reader.is_alive():
                self._reader.start()
            self._subscribers += 1
        self._reader.wake()
        try:
            yield
        finally:
            with self._changed:
                self._subscribers -= 1

    def _next(self, cursor: Moment, seconds: float) -> FeedPage:
        with self._changed:
            self._changed.wait_for(lambda: self._upto > cursor, seconds)
            if self._since <= cursor <= self._upto:
                first = bisect_right(self._changes, cursor, key=_moment)
                return _page(self._changes[first : first + _PAGE_SIZE], cursor)
        with suppress(redis.exceptions.RedisError):
            page = self._read_page(cursor)
            if page.changes or page.gap:
                return page
        clock.pause(min(seconds, _RECONNECT_SECONDS))
        return FeedPage((), cursor)

    # The outbox

    def _newest(self) -> Moment:
        return _last(self._redis.xrevrange(redis_keys.OUTBOX, count=1))

    def _read_page(self, cursor: Moment) -> FeedPage:
        """Return the page after `cursor`. A cursor outside of the outbox has a gap behind it."""
        with self._redis.pipeline(transaction=True) as pipeline:
            pipeline.xrange(redis_keys.OUTBOX, count=1)
            pipeline.xrevrange(redis_keys.OUTBOX, count=1)
            pipeline.xrange(redis_keys.OUTBOX, min=f"({cursor}", count=_PAGE_SIZE)
            oldest, newest, entries = pipeline.execute()
        # A cursor at the beginning claims to have seen nothing, so it misses nothing.
        is_trimmed = cursor != BEGINNING and cursor < _last(oldest)
        is_ahead = cursor > _last(newest)  # of another outbox, or of one that lost its end
        page = _page([_change(*entry) for entry in entries], min(cursor, _last(newest)))
        return replace(page, gap=is_trimmed or is_ahead)

    # The reader

    def _reconnect_pause(self) -> float | None:
        return _RECONNECT_SECONDS if self._subscribers else None

    def _read(self) -> None:
        """Read while there are subscribers, until the connection is lost."""
        with suppress(redis.exceptions.RedisError):
            while self._subscribers:
                self._read_from_now()

    def _read_from_now(self) -> None:
        answered = clock.monotonic()
        self._begin(self._newest())
        while self._subscribers:
            streams = cast(
                list[Any], self._redis.xread({redis_keys.OUTBOX: str(self._upto)}, count=_MAX_READ, block=_BLOCK_MS)
            )
            if clock.monotonic() - answered > _MAX_SILENCE_SECONDS:
                return
            answered = clock.monotonic()
            if streams:
                ((_, entries),) = streams
                self._append([_change(*entry) for entry in entries])
                clock.pause(_PAUSE_SECONDS)

    def _begin(self, moment: Moment) -> None:
        with self._changed:
            self._changes = []
            self._since = self._upto = moment
            self._changed.notify_all()

    def _append(self, changes: list[Change]) -> None:
        with self._changed:
            self._changes += changes
            self._upto = changes[-1].moment
            if len(self._changes) > 2 * _MAX_KEPT:
                self._since = self._changes[-_MAX_KEPT - 1].moment
                del self._changes[:-_MAX_KEPT]
            self._changed.notify_all()


def _moment(change: Change) -> Moment:
    return change.moment


def _page(changes: list[Change], cursor: Moment) -> FeedPage:
    return FeedPage(tuple(changes), changes[-1].moment if changes else cursor)


def _last(entries: Any) -> Moment:
    """Return the moment of the last of these entries."""
    return Moment.parse(entries[-1][0]) if entries else BEGINNING


def _change(entry_id: str, fields: dict[str, str]) -> Change:
    return Change(
        moment=Moment.parse(entry_id),
        job=fields["job"],
        state=State(fields["state"]),
        sequence=int(fields["sequence"]),
        caller=fields["caller"],
        endpoint=fields["endpoint"],
        code=fields["code"],
    )
