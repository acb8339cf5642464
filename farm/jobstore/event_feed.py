"""What changes in all jobs, as it happens: the outbox, read once for any number of listeners."""

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
_KEPT = 5_000
_READ = 1000
#: How many changes a listener is given at once, and so how many its connection may have to wait for.
_PAGE = 200
#: How long one look for changes lasts, in milliseconds: less than a connection waits for an answer.
_BLOCK_MS = 500
#: After each reading, in seconds, so that what happens close together wakes the listeners once.
_PACE_SECONDS = 0.05
#: Silence of the reader after which something may have been cut off the outbox unseen, in seconds.
_TRUSTED_SECONDS = 5.0
_RECONNECT_SECONDS = 0.5


@dataclass(frozen=True, slots=True)
class News:
    """What a listener is told at once. It has now heard everything up to `upto`."""

    changes: tuple[Change, ...]
    upto: Moment
    #: Not everything between the last news and these is kept any more.
    gap: bool = False

    def of(self, caller: str | None) -> News:
        """The same for one caller's jobs; None means everybody's."""
        if caller is None:
            return self
        return replace(self, changes=tuple(change for change in self.changes if change.caller == caller))


class Feed:
    """Tells any number of listeners what changes. While nobody listens it costs nothing.

    A listener has a place in the order of all changes, and nothing else: whoever is slow holds no memory. One thread
    reads the outbox and keeps the newest changes. A listener whose place is not among them asks Redis itself, page by
    page, until it has caught up. So no more is needed when the reader lost its connection or its place than to begin
    anew at the present.
    """

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client
        self._listeners = 0
        self._reader = BackgroundThread("event feed", self._read, pause=self._reconnect_pause)
        self._told = threading.Condition()
        # Every change after `_since`, up to `_upto`.
        self._changes: list[Change] = []
        self._since = self._upto = BEGINNING

    def follow(self, after: Moment | None, *, caller: str | None, idle_seconds: float) -> Iterator[News]:
        """News of one caller's jobs (None: everybody's) after a moment (None: the present); empty ones in between.

        The first come at once, later ones at least every `idle_seconds` or so. Raises StoreUnavailable before the
        first; later a Redis that is away is a pause.
        """
        with translated():
            news = News((), self._newest()) if after is None else self._ask(after)
        with self._listening():
            while True:
                yield news.of(caller)
                news = self._next(news.upto, idle_seconds)

    @contextmanager
    def _listening(self) -> Iterator[None]:
        with self._told:
            self._listeners += 1
            if not self._reader.is_alive():
                self._reader.start()
        self._reader.wake()
        try:
            yield
        finally:
            with self._told:
                self._listeners -= 1

    def _next(self, place: Moment, seconds: float) -> News:
        with self._told:
            self._told.wait_for(lambda: self._upto > place, seconds)
            if self._since <= place <= self._upto:
                first = bisect_right(self._changes, place, key=_moment)
                return _news(self._changes[first : first + _PAGE], place)
        with suppress(redis.exceptions.RedisError):
            news = self._ask(place)
            if news.changes or news.gap:
                return news
        clock.pause(min(seconds, _RECONNECT_SECONDS))
        return News((), place)

    # The outbox

    def _newest(self) -> Moment:
        return _last(self._redis.xrevrange(redis_keys.OUTBOX, count=1))

    def _ask(self, place: Moment) -> News:
        """A page of what came after `place`. What stands outside of the outbox has a gap behind it."""
        with self._redis.pipeline(transaction=True) as together:
            together.xrange(redis_keys.OUTBOX, count=1)
            together.xrevrange(redis_keys.OUTBOX, count=1)
            together.xrange(redis_keys.OUTBOX, min=f"({place}", count=_PAGE)
            oldest, newest, entries = together.execute()
        # Whoever stands at the beginning claims to have heard nothing, and misses nothing.
        is_cut_off = place != BEGINNING and place < _last(oldest)
        is_ahead = place > _last(newest)  # of another outbox, or of one that lost its end
        news = _news([_change(*entry) for entry in entries], min(place, _last(newest)))
        return replace(news, gap=is_cut_off or is_ahead)

    # The reader

    def _reconnect_pause(self) -> float | None:
        return _RECONNECT_SECONDS if self._listeners else None

    def _read(self) -> None:
        """Read while anybody listens, until the connection is lost."""
        with suppress(redis.exceptions.RedisError):
            while self._listeners:
                self._read_from_now()

    def _read_from_now(self) -> None:
        answered = clock.monotonic()
        self._begin(self._newest())
        while self._listeners:
            found = cast(
                list[Any], self._redis.xread({redis_keys.OUTBOX: str(self._upto)}, count=_READ, block=_BLOCK_MS)
            )
            if clock.monotonic() - answered > _TRUSTED_SECONDS:
                return
            answered = clock.monotonic()
            if found:
                ((_, entries),) = found
                self._tell([_change(*entry) for entry in entries])
                clock.pause(_PACE_SECONDS)

    def _begin(self, moment: Moment) -> None:
        with self._told:
            self._changes = []
            self._since = self._upto = moment
            self._told.notify_all()

    def _tell(self, changes: list[Change]) -> None:
        with self._told:
            self._changes += changes
            self._upto = changes[-1].moment
            if len(self._changes) > 2 * _KEPT:
                self._since = self._changes[-_KEPT - 1].moment
                del self._changes[:-_KEPT]
            self._told.notify_all()


def _moment(change: Change) -> Moment:
    return change.moment


def _news(changes: list[Change], place: Moment) -> News:
    return News(tuple(changes), changes[-1].moment if changes else place)


def _last(entries: Any) -> Moment:
    """The moment of the last of these entries."""
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
