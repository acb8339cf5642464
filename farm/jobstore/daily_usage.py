"""Usage of callers by day (UTC) and model, as the script counted it that completed each job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from typing import cast

import redis

from farm.domain.measures import MILLIONTHS
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated

_EPOCH = date(1970, 1, 1)
#: Days of callers that are read at a time.
_CHUNK = 500


@dataclass(frozen=True, slots=True, order=True)
class DayUsage:
    """The completed jobs of one day, caller and model. `megapixel_steps`: denoising steps computed × megapixels."""

    day: date
    caller: str
    model: str
    images: int
    megapixel_steps: float
    device_seconds: float


class DailyUsage:
    """Read access to the usage of callers."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def today(self) -> date:
        """Return the present day, by Redis's clock."""
        with translated():
            return datetime.fromtimestamp(self._redis.time()[0], UTC).date()

    def between(self, first: date, last: date, *, caller: str | None = None) -> list[DayUsage]:
        """Return the usage of one caller (None: of all) from the first to the last day, in the order of days."""
        with translated():
            wanted = list(self._of_caller(caller, first, last) if caller else self._of_all(first, last))
            return sorted(
                usage for start in range(0, len(wanted), _CHUNK) for usage in self._read(wanted[start : start + _CHUNK])
            )

    def _of_caller(self, caller: str, first: date, last: date) -> Iterator[tuple[str, int]]:
        return ((caller, day) for day in range(_number(first), _number(last) + 1))

    def _of_all(self, first: date, last: date) -> Iterator[tuple[str, int]]:
        """Yield each caller and day of which something is counted."""
        since_us, until_us = (_number(day) * 86400 * 1_000_000 for day in (first, last + timedelta(days=1)))
        index = redis_keys.DAILY_USAGE
        for name in cast(list[str], self._redis.zrangebyscore(index, since_us, f"({until_us}")):
            caller, _, day = name.rpartition(":")
            yield caller, int(day)

    def _read(self, wanted: Sequence[tuple[str, int]]) -> Iterator[DayUsage]:
        pipeline = self._redis.pipeline(transaction=False)
        for caller, day in wanted:
            pipeline.hgetall(redis_keys.daily_usage(caller, day))
        for (caller, day), fields in zip(wanted, pipeline.execute(), strict=True):
            for model in {name.partition(":")[0] for name in fields}:
                yield DayUsage(
                    _EPOCH + timedelta(days=day),
                    caller,
                    model,
                    images=int(fields[f"{model}:images"]),
                    megapixel_steps=int(fields[f"{model}:megapixel_steps"]) / MILLIONTHS,
                    device_seconds=int(fields[f"{model}:device_us"]) / 1e6,
                )


def _number(day: date) -> int:
    """Return the number of a day, counted from 1970."""
    return (day - _EPOCH).days
