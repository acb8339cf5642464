"""Last error of each operation on the image storage: metrics count them, and this keeps why."""

from __future__ import annotations

import json
import threading
from dataclasses import dataclass
from typing import cast

import redis

from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.redis_time import now_us

#: For how long errors are kept after the last one, in seconds.
KEEP_SECONDS = 600
_MAX_REASON_CHARS = 500


@dataclass(frozen=True, slots=True)
class OperationError:
    """The last error of an operation, and when its process told of it."""

    operation: str
    reason: str
    at_us: int


class StorageErrors:
    """The errors that this process met, on their way to Redis, and the last ones of all processes. Thread-safe."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard) -> None:
        self._redis = client
        self._guard = guard
        self._lock = threading.Lock()
        self._met: dict[str, str] = {}

    def note(self, operation: str, reason: str) -> None:
        """Keep why an operation failed for the next flush."""
        with self._lock:
            self._met[operation] = reason[:_MAX_REASON_CHARS]

    def flush(self) -> None:
        """Tell Redis. What it does not take is lost: while the storage is ill, there are more."""
        with self._lock:
            met, self._met = self._met, {}
        if met:
            self._guard("storage_errors")
            self._write(met)

    def _write(self, met: dict[str, str]) -> None:
        with translated(), self._redis.pipeline() as pipeline:
            at_us = now_us(self._redis)
            for operation, reason in met.items():
                text = json.dumps({"reason": reason, "at_us": at_us})
                pipeline.hset(redis_keys.STORAGE_ERRORS, operation, text)
            pipeline.expire(redis_keys.STORAGE_ERRORS, KEEP_SECONDS)
            pipeline.execute()

    def last(self) -> list[OperationError]:
        """Return the last error of each operation, the newest first."""
        with translated():
            found = cast(dict[str, str], self._redis.hgetall(redis_keys.STORAGE_ERRORS))
        errors = [OperationError(operation, **json.loads(text)) for operation, text in found.items()]
        return sorted(errors, key=lambda error: -error.at_us)
