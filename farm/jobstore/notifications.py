"""Notifications that the scripts publish. One may be lost: a thread that waits for it also polls the record."""

from __future__ import annotations

import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

import redis

from farm import clock
from farm.concurrency.background_thread import BackgroundThread
from farm.domain.catalogue import BATCH_IMAGES
from farm.domain.preview import Preview
from farm.jobstore import previews, redis_keys

#: How long one wait for a message lasts, and so how long a new subscription may take, in seconds.
_LISTEN_SECONDS = 0.05
_RECONNECT_SECONDS = 0.5
#: How often Redis is pinged, in seconds; if nothing came since the last ping, the connection is dead without a word.
_PING_SECONDS = 5.0


class Listener(BackgroundThread):
    """Calls `on_message(channel, text)` for each message, for as long as the process lives.

    Any thread may subscribe and unsubscribe; this thread alone talks to Redis. When it has joined a channel, for the
    first time or after a lost connection, it calls `on_message` once without text: something may have been missed.
    """

    def __init__(self, client: redis.Redis, on_message: Callable[[str, str], None]) -> None:
        super().__init__("listener", self._listen_while_connected, pause=self._reconnect_pause)
        self._client = client
        self._on_message = on_message
        self._wanted: set[str] = set()
        self._lock = threading.Lock()

    def subscribe(self, channel: str) -> None:
        with self._lock:
            self._wanted.add(channel)
        self.wake()

    def unsubscribe(self, channel: str) -> None:
        with self._lock:
            self._wanted.discard(channel)

    def _reconnect_pause(self) -> float | None:
        return _RECONNECT_SECONDS if self._wanted_now() else None

    def _listen_while_connected(self) -> None:
        with suppress(redis.exceptions.RedisError):
            self._listen()

    def _listen(self) -> None:
        joined: set[str] = set()
        pinged_at, is_alive = clock.monotonic(), True
        with self._client.pubsub() as subscription:  # type: ignore[no-untyped-call]
            while wanted := self._wanted_now():
                self._follow(subscription, joined, wanted)
                joined = wanted
                message = subscription.get_message(timeout=_LISTEN_SECONDS)
                is_alive = is_alive or message is not None
                if message and message["type"] in ("message", "subscribe"):
                    self._on_message(message["channel"], message["data"] if message["type"] == "message" else "")
                if clock.monotonic() - pinged_at > _PING_SECONDS:
                    if not is_alive:
                        raise redis.exceptions.ConnectionError("Redis does not answer a ping.")
                    subscription.ping()
                    pinged_at, is_alive = clock.monotonic(), False

    def _follow(self, subscription: Any, joined: set[str], wanted: set[str]) -> None:
        if gone := joined - wanted:
            subscription.unsubscribe(*gone)
        if new := wanted - joined:
            subscription.subscribe(*new)  # Redis confirms it, after which nothing is missed

    def _wanted_now(self) -> set[str]:
        with self._lock:
            return set(self._wanted)


def listen_for_stops(client: redis.Redis, stop: Callable[[str], None]) -> None:
    """Call `stop(job id)`, from a thread of its own, whenever the rendering of a job must stop.

    The answer to the next heartbeat also names jobs whose notification was lost.
    """
    listener = Listener(client, lambda _channel, job_id: stop(job_id) if job_id else None)
    listener.subscribe(redis_keys.STOP_CHANNEL)
    listener.start()


class Watcher(threading.Event):
    """Is set whenever a watched job changes, and whenever a preview of one arrives."""

    def __init__(self, jobs: int = 1) -> None:
        super().__init__()
        self._changed: set[str] = set()
        # What a slow watcher does not take is dropped for what is newer.
        self._previews: deque[tuple[str, str]] = deque(maxlen=jobs * BATCH_IMAGES)

    def add_change(self, job_id: str) -> None:
        self._changed.add(job_id)
        self.set()

    def add_preview(self, job_id: str, text: str) -> None:
        self._previews.append((job_id, text))
        self.set()

    def take_changed(self) -> set[str]:
        """Return the ids of the jobs that have changed since the last call."""
        taken: set[str] = set()
        while self._changed:
            taken.add(self._changed.pop())
        return taken

    def take_previews(self) -> Iterator[tuple[str, Preview]]:
        """Yield the previews that arrived since the last call, each with the id of its job."""
        while self._previews:
            job_id, text = self._previews.popleft()
            yield job_id, previews.parse(text)


class JobChanges:
    """Lets many threads wait for changes of single jobs over one connection. Jobs without watchers cost nothing."""

    def __init__(self, client: redis.Redis) -> None:
        self._watchers: defaultdict[str, set[Watcher]] = defaultdict(set)
        self._lock = threading.Lock()
        self._listener = Listener(client, self._wake_watchers)
        self._listener.start()

    @contextmanager
    def of(self, *job_ids: str, with_previews: bool = False) -> Iterator[Watcher]:
        """Give an event that is set whenever one of the jobs changes, or a preview of one arrives.

        Look at the records after entering, and after each wait.
        """
        watcher, channels = Watcher(len(job_ids)), [redis_keys.changes_channel(job_id) for job_id in job_ids]
        if with_previews:
            channels += map(redis_keys.previews_channel, job_ids)
        for channel in channels:
            self._add(watcher, channel)
        try:
            yield watcher
        finally:
            for channel in channels:
                self._remove(watcher, channel)

    def _add(self, watcher: Watcher, channel: str) -> None:
        with self._lock:
            self._watchers[channel].add(watcher)
            self._listener.subscribe(channel)

    def _remove(self, watcher: Watcher, channel: str) -> None:
        with self._lock:
            self._watchers[channel].discard(watcher)
            if not self._watchers[channel]:
                del self._watchers[channel]
                self._listener.unsubscribe(channel)

    def _wake_watchers(self, channel: str, text: str) -> None:
        job_id = redis_keys.job_of_channel(channel)
        is_preview = text and channel.startswith(redis_keys.PREVIEWS)
        with self._lock:
            for watcher in self._watchers.get(channel, ()):
                if is_preview:
                    watcher.add_preview(job_id, text)
                else:
                    watcher.add_change(job_id)
