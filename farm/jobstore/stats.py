"""What is in the job store at this moment: waiting jobs, workers, models, counters. For people, metrics and scalers."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from typing import cast, get_args

import redis

from farm.domain.catalogue import MODELS
from farm.domain.request import Priority
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated


@dataclass(frozen=True, slots=True)
class Queue:
    """The jobs of one model and priority that wait, and the age of the oldest of them by its time of acceptance."""

    model: str
    priority: Priority
    jobs: int
    oldest_seconds: float


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as it last described itself. `silent_seconds` is how long ago that was."""

    id: str
    facts: dict[str, str]
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """What serves a model: the weights' name, the image checker (`off`: none), the build's digest."""

    weights: str
    safety: str
    build: str
    seen_us: int


#: A model is served no longer when it was last announced so long before others were, in seconds: a worker that was
#: started again has loaded its weights by then.
GONE_SECONDS = 900.0


class StoreStats:
    """Reads only; each figure is of one moment, the whole is not."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def now_us(self) -> int:
        with translated():
            seconds, microseconds = self._redis.time()
        return int(seconds) * 1_000_000 + int(microseconds)

    def models(self) -> dict[str, Served]:
        """Models that a worker has ever announced, by their names in the catalogue."""
        return {name: _served(json.loads(text)) for name, text in self._hash(redis_keys.MODELS).items()}

    def served(self) -> dict[str, Served]:
        """Models that are still announced. While no worker is there at all, those that were last."""
        models = self.models()
        latest_us = max((served.seen_us for served in models.values()), default=0)
        return {name: served for name, served in models.items() if latest_us - served.seen_us <= GONE_SECONDS * 1e6}

    def is_paused(self) -> bool:
        """Whether workers are to take nothing."""
        with translated():
            return bool(self._redis.exists(redis_keys.PAUSED))

    def is_dismissed(self, host: str, pid: int) -> bool:
        """Whether the worker that is, or was, this process of this machine has been told to leave."""
        with translated():
            return bool(self._redis.exists(redis_keys.dismissed(host, pid)))

    def queues(self) -> list[Queue]:
        """Waiting jobs of every model that was ever announced, by priority."""
        now_us = self.now_us()
        lanes = [(model, priority) for model in self.models() for priority in get_args(Priority)]
        return [self._queue(model, priority, now_us) for model, priority in lanes]

    def workers(self) -> list[Worker]:
        now_us = self.now_us()
        beats = self._scores(redis_keys.WORKERS, 0, -1)
        found = ((name, self._hash(redis_keys.worker(name)), beat) for name, beat in beats)
        return [_worker(name, facts, (now_us - beat) / 1e6) for name, facts, beat in found if facts]

    def waiting(self, models: Iterable[str] | None = None) -> int:
        """Jobs that wait, of these models, or of all."""
        names = [model.name for model in MODELS] if models is None else models
        lanes = [redis_keys.waiting(name, priority) for name in names for priority in get_args(Priority)]
        return self._sizes(lanes)

    def unprepared(self, models: Iterable[str] | None = None) -> int:
        """Jobs of these models, or of all, that are or have yet to be prepared before they stand in their line."""
        names = [model.name for model in MODELS] if models is None else models
        return self._sizes([redis_keys.since(redis_keys.PREPARATION, name) for name in names])

    def unattended_seconds(self) -> float:
        """For how long a job has been to be prepared, while nobody prepares any; 0 where somebody does."""
        now_us = self.now_us()
        with translated(), self._redis.pipeline(transaction=False) as reads:
            for lot in (redis_keys.PREPARING, redis_keys.SUSPECTS):
                reads.zcount(lot, now_us, "+inf")
            for model in MODELS:
                reads.zrange(redis_keys.since(redis_keys.PREPARATION, model.name), 0, 0, withscores=True)
            preparing, suspects, *oldest = reads.execute()
        if preparing or suspects:
            return 0.0
        return max(((now_us - since_us) / 1e6 for first in oldest for _, since_us in first), default=0.0)

    def idle_workers(self) -> int:
        with translated():
            return len(self._redis.sunion([redis_keys.idle(model.name) for model in MODELS]))

    def processing(self) -> int:
        return self._sizes([redis_keys.LEASES])

    def overdue_seconds(self) -> float:
        """For how long a receiver of webhooks has been due without anybody looking at it; 0 where none is."""
        now_us = self.now_us()
        earliest = self._scores(redis_keys.LINES, 0, 0)
        return max(0.0, (now_us - earliest[0][1]) / 1e6) if earliest else 0.0

    def couriers(self) -> int:
        """Webhook workers that listen for new deliveries."""
        with translated():
            return sum(count for _, count in self._redis.pubsub_numsub(redis_keys.DUE))

    def totals(self) -> dict[str, float]:
        """Counters since the beginning, by the names that the scripts give them."""
        return {name: float(value) for name, value in self._hash(redis_keys.TOTALS).items()}

    def _queue(self, model: str, priority: Priority, now_us: int) -> Queue:
        lane = redis_keys.since(model, priority)
        oldest = self._scores(lane, 0, 0)
        age = (now_us - oldest[0][1]) / 1e6 if oldest else 0.0
        return Queue(model=model, priority=priority, jobs=self._sizes([lane]), oldest_seconds=age)

    def _hash(self, key: str) -> dict[str, str]:
        with translated():
            return cast(dict[str, str], self._redis.hgetall(key))

    def _scores(self, key: str, first: int, last: int) -> list[tuple[str, float]]:
        with translated():
            return cast(list[tuple[str, float]], self._redis.zrange(key, first, last, withscores=True))

    def _sizes(self, sorted_sets: list[str]) -> int:
        """How many members they have together."""
        pipeline = self._redis.pipeline(transaction=False)
        for key in sorted_sets:
            pipeline.zcard(key)
        with translated():
            return sum(pipeline.execute())


def _served(fields: dict[str, str]) -> Served:
    return Served(
        weights=fields["weights"], safety=fields["safety"], build=fields["build"], seen_us=int(fields["seen_us"])
    )


def _worker(name: str, facts: dict[str, str], silent_seconds: float) -> Worker:
    private = ("nonce", "claimed", "present", "drain")
    return Worker(
        id=name,
        facts={fact: value for fact, value in facts.items() if fact not in private},
        silent_seconds=max(0.0, silent_seconds),
    )
