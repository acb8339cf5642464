"""Listens to what the scripts publish. A hint may be lost: whoever waits for one looks into the record now and then."""

from __future__ import annotations

import threading
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis

from farm import clock
from farm.concurrency.background_thread import BackgroundThread
from farm.jobstore import redis_keys

#: How long one look for a message lasts, and so how long a new channel may wait to be joined, in seconds.
_LISTEN_SECONDS = 0.05
_RECONNECT_SECONDS = 0.5
#: How often Redis is asked for a sign of life, in seconds; if none came since the last time, the connection is dead,
#: though nobody was told.
_PING_SECONDS = 5.0


class Listener(BackgroundThread):
    """Calls `hear(channel, text)` for each message, for as long as the process lives.

    Any thread may ask for a channel or drop one; this thread alone talks to Redis. When it has joined a channel, for
    the first time or after a lost connection, it calls `hear` once with no text: something may have been missed.
    """

    def __init__(self, client: redis.Redis, hear: Callable[[str, str], None]) -> None:
        super().__init__("listener", self._listen_while_connected, pause=self._reconnect_pause)
        self._client = client
        self._hear = hear
        self._wanted: set[str] = set()
        self._lock = threading.Lock()

    def ask_for(self, channel: str) -> None:
        with self._lock:
            self._wanted.add(channel)
        self.wake()

    def drop(self, channel: str) -> None:
        with self._lock:
            self._wanted.discard(channel)

    def _reconnect_pause(self) -> float | None:
        return _RECONNECT_SECONDS if self._wanted_now() else None

    def _listen_while_connected(self) -> None:
        with suppress(redis.exceptions.RedisError):
            self._listen()

    def _listen(self) -> None:
        joined: set[str] = set()
        asked_at, is_alive = clock.monotonic(), True
        with self._client.pubsub(ignore_subscribe_messages=True) as subscription:  # type: ignore[no-untyped-call]
            while wanted := self._wanted_now():
                self._follow(subscription, joined, wanted)
                joined = wanted
                message = subscription.get_message(timeout=_LISTEN_SECONDS)
                is_alive = is_alive or message is not None
                if message and message["type"] == "message":
                    self._hear(message["channel"], message["data"])
                if clock.monotonic() - asked_at > _PING_SECONDS:
                    if not is_alive:
                        raise redis.exceptions.ConnectionError("Redis gives no sign of life.")
                    subscription.ping()
                    asked_at, is_alive = clock.monotonic(), False

    def _follow(self, subscription: Any, joined: set[str], wanted: set[str]) -> None:
        if gone := joined - wanted:
            subscription.unsubscribe(*gone)
        if new := wanted - joined:
            subscription.subscribe(*new)
            for channel in new:
                self._hear(channel, "")

    def _wanted_now(self) -> set[str]:
        with self._lock:
            return set(self._wanted)


def listen_for_stops(client: redis.Redis, stop: Callable[[str], None]) -> None:
    """Call `stop(job id)`, from a thread of its own, whenever the rendering of a job must stop.

    What is missed while there is no connection, the next renewal of the lease tells.
    """
    listener = Listener(client, lambda _channel, job_id: stop(job_id) if job_id else None)
    listener.ask_for(redis_keys.STOP)
    listener.start()


class Changes:
    """Lets many threads wait for changes of single jobs over one connection; jobs that nobody watches cost nothing."""

    def __init__(self, client: redis.Redis) -> None:
        self._waiting: defaultdict[str, set[threading.Event]] = defaultdict(set)
        self._lock = threading.Lock()
        self._listener = Listener(client, lambda channel, _text: self._hear(channel))
        self._listener.start()

    @contextmanager
    def of(self, job_id: str) -> Iterator[threading.Event]:
        """An event that is set whenever the job changes. Look at the record after entering, and after each wait."""
        event, channel = threading.Event(), redis_keys.changes(job_id)
        with self._lock:
            self._waiting[channel].add(event)
            self._listener.ask_for(channel)
        try:
            yield event
        finally:
            with self._lock:
                self._waiting[channel].discard(event)
                if not self._waiting[channel]:
                    del self._waiting[channel]
                    self._listener.drop(channel)

    def _hear(self, channel: str) -> None:
        with self._lock:
            for event in self._waiting.get(channel, ()):
                event.set()
