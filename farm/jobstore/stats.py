"""Statistics of the job store: queues, workers, models, counters. For operators, metrics and autoscalers."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import cast

import redis

from farm.domain.catalogue import MODELS
from farm.domain.job import Job
from farm.domain.pause import Group, GroupKind, PausedGroup
from farm.domain.scheduling import PRIORITIES, QueuePriority
from farm.jobstore import redis_keys, redis_time
from farm.jobstore.connection import translated
from farm.jobstore.record import job_from


@dataclass(frozen=True, slots=True)
class Queue:
    """The waiting jobs of one model and priority, and the age of the oldest of them.

    `startable` are those that workers may take: the others are paused.
    """

    model: str
    priority: QueuePriority
    jobs: int
    oldest_seconds: float
    startable: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker as it last described itself. `silent_seconds` is how long ago that was.

    It is `lost` as soon as it has been silent for longer than its lease: its jobs return to their queues.
    """

    id: str
    facts: dict[str, str]
    silent_seconds: float


@dataclass(frozen=True, slots=True)
class Served:
    """A served model: the name of its weights, its safety checker (`off`: none), the digest of its build."""

    weights: str
    safety: str
    build: str
    seen_us: int


#: A model counts as served until so long after its last announcement, in seconds, while other models are announced: a
#: worker that restarts has loaded its weights by then.
GONE_SECONDS = 900.0


class StoreStats:
    """Read access to the job store's figures. Each is consistent in itself; together they are not one snapshot."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def now_us(self) -> int:
        return redis_time.now_us(self._redis)

    def models(self) -> dict[str, Served]:
        """Return the models that a worker has ever announced, by their names in the catalogue."""
        return {name: _served(json.loads(text)) for name, text in self._hash(redis_keys.MODELS).items()}

    def served(self) -> dict[str, Served]:
        """Return the models that are still announced; without any worker, those that were announced last.

        Any worker of a model may take its next job: one without a safety checker leaves the model without.
        """
        models, unchecked = self.models(), self._unchecked_models()
        latest_us = max((served.seen_us for served in models.values()), default=0)
        return {
            name: replace(served, safety="off") if name in unchecked else served
            for name, served in models.items()
            if latest_us - served.seen_us <= GONE_SECONDS * 1e6
        }

    def _unchecked_models(self) -> set[str]:
        """Return the models of which a warm worker has no safety checker."""
        warm = (worker.facts for worker in self.workers() if worker.facts["state"] == "warm")
        return {model for facts in warm if facts["safety"] == "off" for model in facts["models"].split(",")}

    def is_paused(self) -> bool:
        """Return True if workers take no jobs."""
        with translated():
            return bool(self._redis.exists(redis_keys.PAUSED))

    def paused_groups(self) -> list[PausedGroup]:
        """Return the groups of jobs that are paused beside the whole farm."""
        return paused_groups_from(self._hash(redis_keys.PAUSED_GROUPS))

    def startable(self, models: Iterable[str] | None = None) -> int:
        """Return the number of waiting jobs of these models (None: of all) that workers may take."""
        names = [model.name for model in MODELS] if models is None else models
        return self._sizes([redis_keys.queue(*name) for name in self._open(product(names, PRIORITIES))])

    def _open(self, queues: Iterable[tuple[str, QueuePriority]]) -> list[tuple[str, QueuePriority]]:
        """Return those of these queues, each a model and a priority, that are not paused."""
        if self.is_paused():
            return []
        paused = {one.group for one in self.paused_groups()}
        return [queue for queue in queues if not paused & {Group("model", queue[0]), Group("priority", queue[1])}]

    def is_dismissed(self, host: str, pid: int) -> bool:
        """Return True if the worker that is, or was, this process of this machine was told to drain."""
        with translated():
            return bool(self._redis.exists(redis_keys.drained_process(host, pid)))

    def queues(self) -> list[Queue]:
        """Return the queues of every model that was ever announced, by priority."""
        now_us = self.now_us()
        names = list(product(self.models(), PRIORITIES))
        open_queues = self._open(names)
        return [self._queue(*name, now_us, is_open=name in open_queues) for name in names]

    def workers(self) -> list[Worker]:
        """Return the workers that have sent a heartbeat, those whose last one is longest ago first."""
        with translated(), self._redis.pipeline(transaction=False) as pipeline:
            pipeline.time()
            pipeline.zrange(redis_keys.WORKERS, 0, -1, withscores=True)
            pipeline.hgetall(redis_keys.WORKER_FACTS)
            time, heartbeats, facts = pipeline.execute()
        return workers_from(heartbeats, facts, now_us=redis_time.microseconds(time))

    def running(self) -> dict[str, list[Job]]:
        """Return the jobs that workers hold: worker → its jobs."""
        found: defaultdict[str, list[Job]] = defaultdict(list)
        with translated():
            ids = cast(list[str], self._redis.zrange(redis_keys.LEASES, 0, -1))
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in ids:
                    pipeline.hgetall(redis_keys.job(job_id))
                records = pipeline.execute()
        for job_id, fields in zip(ids, records, strict=True):
            if worker := fields.get("worker"):
                found[worker].append(job_from(job_id, fields))
        return found

    def waiting(self, models: Iterable[str] | None = None) -> int:
        """Return the number of waiting jobs of these models (None: of all)."""
        names = [model.name for model in MODELS] if models is None else models
        queues = [redis_keys.queue_by_age(name, priority) for name in names for priority in PRIORITIES]
        return self._sizes(queues)

    def unprepared(self, models: Iterable[str] | None = None) -> int:
        """Return the number of jobs of these models (None: of all) whose preparation has not ended."""
        names = [model.name for model in MODELS] if models is None else models
        return self._sizes([redis_keys.queue_by_age(redis_keys.UNPREPARED, name) for name in names])

    def unattended_seconds(self) -> float:
        """Return for how long a job has waited for a preparer while none is at work; 0 if one is."""
        now_us = self.now_us()
        with translated(), self._redis.pipeline(transaction=False) as pipeline:
            for key in (redis_keys.PREPARING, redis_keys.PREPARING_AGAIN):
                pipeline.zcount(key, now_us, "+inf")
            for model in MODELS:
                pipeline.zrange(redis_keys.queue_by_age(redis_keys.UNPREPARED, model.name), 0, 0, withscores=True)
            preparing, prepared_again, *oldest = pipeline.execute()
        if preparing or prepared_again:
            return 0.0
        return max(((now_us - since_us) / 1e6 for first in oldest for _, since_us in first), default=0.0)

    def idle_workers(self) -> int:
        with translated():
            return len(self._redis.sunion([redis_keys.idle_workers(model.name) for model in MODELS]))

    def processing(self) -> int:
        return self._sizes([redis_keys.LEASES])

    def overdue_seconds(self) -> float:
        """Return for how long a webhook delivery has been due without a courier taking it; 0 if none is due."""
        now_us = self.now_us()
        earliest = self._scores(redis_keys.DELIVERY_QUEUES, 0, 0)
        return max(0.0, (now_us - earliest[0][1]) / 1e6) if earliest else 0.0

    def couriers(self) -> int:
        """Return the number of webhook workers that listen for new deliveries."""
        with translated():
            return sum(count for _, count in self._redis.pubsub_numsub(redis_keys.DELIVERY_DUE_CHANNEL))

    def totals(self) -> dict[str, float]:
        """Return the counters since the beginning, by the names that the scripts give them."""
        return {name: float(value) for name, value in self._hash(redis_keys.TOTALS).items()}

    def _queue(self, model: str, priority: QueuePriority, now_us: int, *, is_open: bool) -> Queue:
        key = redis_keys.queue_by_age(model, priority)
        oldest = self._scores(key, 0, 0)
        age = (now_us - oldest[0][1]) / 1e6 if oldest else 0.0
        startable = self._sizes([redis_keys.queue(model, priority)]) if is_open else 0
        return Queue(model, priority, jobs=self._sizes([key]), oldest_seconds=age, startable=startable)

    def _hash(self, key: str) -> dict[str, str]:
        with translated():
            return cast(dict[str, str], self._redis.hgetall(key))

    def _scores(self, key: str, first: int, last: int) -> list[tuple[str, float]]:
        with translated():
            return cast(list[tuple[str, float]], self._redis.zrange(key, first, last, withscores=True))

    def _sizes(self, sorted_sets: list[str]) -> int:
        """Return the number of members of all these sets."""
        pipeline = self._redis.pipeline(transaction=False)
        for key in sorted_sets:
            pipeline.zcard(key)
        with translated():
            return sum(pipeline.execute())


def paused_groups_from(fields: Mapping[str, str]) -> list[PausedGroup]:
    """Return the groups of the hash of paused groups, `kind:name` → since when."""
    groups = [PausedGroup(_group(field), int(since_us)) for field, since_us in fields.items()]
    return sorted(groups, key=lambda paused: paused.group)


def _group(field: str) -> Group:
    kind, _, name = field.partition(":")
    return Group(cast(GroupKind, kind), name)


def _served(fields: dict[str, str]) -> Served:
    return Served(
        weights=fields["weights"], safety=fields["safety"], build=fields["build"], seen_us=int(fields["seen_us"])
    )


def workers_from(heartbeats: Iterable[tuple[str, float]], facts: Mapping[str, str], *, now_us: int) -> list[Worker]:
    """Return the workers of these heartbeats, which described themselves by `facts`: worker → JSON."""
    return [_worker(name, json.loads(facts[name]), now_us - at_us) for name, at_us in heartbeats if name in facts]


def _worker(name: str, facts: dict[str, str], silent_us: float) -> Worker:
    is_lost = silent_us > int(facts.pop("lease_us"))
    return Worker(
        id=name, facts=facts | ({"state": "lost"} if is_lost else {}), silent_seconds=max(0.0, silent_us / 1e6)
    )
