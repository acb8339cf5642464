"""A reading of the whole job store, for metrics and autoscalers: two round trips, however much there is."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import redis

from farm.domain.catalogue import MODELS
from farm.domain.measures import MAX_CALLERS
from farm.domain.pause import PausedGroup
from farm.domain.scheduling import PRIORITIES
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.redis_time import microseconds
from farm.jobstore.stats import Worker, paused_groups_from, workers_from

Command = Callable[[redis.client.Pipeline], object]
#: What follows a counter's name in its field → its value.
Totals = Mapping[tuple[str, ...], int]

_QUEUES = {
    f"{model.name}:{priority}": redis_keys.queue_by_age(model.name, priority)
    for model in MODELS
    for priority in PRIORITIES
}
_UNPREPARED = {model.name: redis_keys.queue_by_age(redis_keys.UNPREPARED, model.name) for model in MODELS}


def _size(key: str) -> Command:
    return lambda pipeline: pipeline.zcard(key)


def _hash(key: str) -> Command:
    return lambda pipeline: pipeline.hgetall(key)


def _first(key: str) -> Command:
    return lambda pipeline: pipeline.zrange(key, 0, 0, withscores=True)


#: Part → the command that reads it. These are read at one moment: what was accepted has ended, or is in one of them.
_AT_ONCE: Mapping[str, Command] = {
    "totals": _hash(redis_keys.TOTALS),
    "delayed": _size(redis_keys.DELAYED),
    "processing": _size(redis_keys.LEASES),
    **{f"waiting:{name}": _size(key) for name, key in _QUEUES.items()},
    **{f"unprepared:{name}": _size(key) for name, key in _UNPREPARED.items()},
}
_OTHERS: Mapping[str, Command] = {
    "time": lambda pipeline: pipeline.time(),
    "work": _hash(redis_keys.WORK),
    "pace": _hash(redis_keys.PACE),
    **{f"queued:{name}": _size(redis_keys.queue(*name.split(":"))) for name in _QUEUES},
    "paused groups": _hash(redis_keys.PAUSED_GROUPS),
    "paused": lambda pipeline: pipeline.exists(redis_keys.PAUSED),
    "heartbeats": lambda pipeline: pipeline.zrange(redis_keys.WORKERS, 0, -1, withscores=True),
    "facts": _hash(redis_keys.WORKER_FACTS),
    "first due": _first(redis_keys.DELIVERY_QUEUES),
    "failing receivers": lambda pipeline: pipeline.hlen(redis_keys.DELIVERY_FAILURES),
    "webhook workers": lambda pipeline: pipeline.pubsub_numsub(redis_keys.DELIVERY_DUE_CHANNEL),
    "memory": lambda pipeline: pipeline.info("memory"),
    **{f"oldest:{name}": _first(key) for name, key in (_QUEUES | _UNPREPARED).items()},
}


class Reading:
    """The replies of the job store. A part that it refused raises its error when it is asked for."""

    def __init__(self, replies: Mapping[str, Any]) -> None:
        self._replies = replies

    @classmethod
    def of(cls, client: redis.Redis) -> Reading:
        """Read the job store. Raises StoreUnavailable if it does not answer."""
        with translated():
            return cls(_read(client, _AT_ONCE, is_atomic=True) | _read(client, _OTHERS, is_atomic=False))

    @property
    def now_us(self) -> int:
        return microseconds(self._part("time"))

    @cached_property
    def totals(self) -> Mapping[str, Totals]:
        """The counters since the beginning, by the names of `farm.domain.measures`."""
        return _by_name(self._part("totals"))

    def total(self, name: str) -> int:
        """Return a counter, summed over its labels."""
        return sum(self.totals.get(name, {}).values())

    @property
    def is_paused(self) -> bool:
        return bool(self._part("paused"))

    @cached_property
    def paused_groups(self) -> list[PausedGroup]:
        """The groups of jobs that are paused beside the whole farm."""
        return paused_groups_from(self._part("paused groups"))

    def is_model_paused(self, model: str) -> bool:
        """Return True if workers take no job of this model."""
        return self.is_paused or ("model", model) in self._paused

    def paused_jobs(self, model: str, priority: str) -> int:
        """Return how many jobs wait in a queue because they are paused, with the whole farm or a group."""
        waiting = self.waiting(model, priority)
        if self.is_paused or self._paused & {("model", model), ("priority", priority)}:
            return waiting
        return max(0, waiting - int(self._part(f"queued:{model}:{priority}")))

    @cached_property
    def _paused(self) -> set[tuple[str, str]]:
        return {(one.group.kind, one.group.name) for one in self.paused_groups}

    @property
    def delayed(self) -> int:
        """The number of jobs that wait for the pause before their next attempt to end."""
        return int(self._part("delayed"))

    @property
    def processing(self) -> int:
        return int(self._part("processing"))

    @property
    def held(self) -> int:
        """The number of jobs that have not ended."""
        waiting = sum(self.waiting(*name.split(":")) for name in _QUEUES)
        return waiting + sum(map(self.unprepared, _UNPREPARED)) + self.delayed + self.processing

    def waiting(self, model: str, priority: str) -> int:
        return int(self._part(f"waiting:{model}:{priority}"))

    def unprepared(self, model: str) -> int:
        return int(self._part(f"unprepared:{model}"))

    def oldest_seconds(self, model: str, priority: str = "") -> float:
        """Return the age of the oldest waiting job of a queue, or, without a priority, of the unprepared ones; or 0."""
        return self._age(f"oldest:{model}:{priority}".rstrip(":"))

    @property
    def overdue_seconds(self) -> float:
        """For how long a webhook delivery has been due without a courier taking it; 0 if none is due."""
        return self._age("first due")

    @property
    def failing_receivers(self) -> int:
        """The number of webhook receivers whose last attempt failed, by caller."""
        return int(self._part("failing receivers"))

    @property
    def webhook_workers(self) -> int:
        return sum(int(count) for _, count in self._part("webhook workers"))

    @cached_property
    def workers(self) -> list[Worker]:
        """The workers that have sent a heartbeat."""
        return workers_from(self._part("heartbeats"), self._part("facts"), now_us=self.now_us)

    @property
    def work(self) -> dict[str, int]:
        """Images and cost of the jobs in each place, by `place:model:images` and `place:model:cost` (in millionths)."""
        return _whole_numbers(self._part("work"))

    @property
    def pace(self) -> dict[str, float]:
        """The sums from which the pace of each model follows, by `model:us` and `model:cost`."""
        return {name: float(value) for name, value in self._part("pace").items()}

    @property
    def memory(self) -> tuple[int, int]:
        """The memory that Redis uses, and the most that it may use (0: no limit), in bytes."""
        memory = self._part("memory")
        return int(memory["used_memory"]), int(memory["maxmemory"])

    def _part(self, name: str) -> Any:
        reply = self._replies[name]
        if isinstance(reply, Exception):
            raise reply
        return reply

    def _age(self, part: str) -> float:
        first = self._part(part)
        return max(0.0, (self.now_us - first[0][1]) / 1e6) if first else 0.0


def _read(client: redis.Redis, commands: Mapping[str, Command], *, is_atomic: bool) -> dict[str, Any]:
    with client.pipeline(transaction=is_atomic) as pipeline:
        for command in commands.values():
            command(pipeline)
        return dict(zip(commands, pipeline.execute(raise_on_error=False), strict=True))


@dataclass(frozen=True, slots=True)
class CallerReading:
    """Counters of callers, the names of those that have counters of their own, and how many jobs of each wait."""

    totals: Mapping[str, Totals]
    names: frozenset[str]
    waiting: Mapping[str, int]

    @classmethod
    def of(cls, client: redis.Redis) -> CallerReading:
        """Read the job store. Raises StoreUnavailable."""
        with translated(), client.pipeline(transaction=False) as pipeline:
            pipeline.hgetall(redis_keys.TOTALS)
            pipeline.zrevrange(redis_keys.CALLER_IMAGES, 0, MAX_CALLERS - 1)
            pipeline.hgetall(redis_keys.WAITING_COUNT)
            totals, names, waiting = pipeline.execute()
        return cls(_by_name(totals), frozenset(names), _whole_numbers(waiting))


def _by_name(fields: Mapping[str, str]) -> Mapping[str, Totals]:
    found: defaultdict[str, dict[tuple[str, ...], int]] = defaultdict(dict)
    for field, value in _whole_numbers(fields).items():
        name, *rest = field.split(":")
        found[name][tuple(rest)] = value
    return found


def _whole_numbers(fields: Mapping[str, str]) -> dict[str, int]:
    return {name: int(value) for name, value in fields.items()}
