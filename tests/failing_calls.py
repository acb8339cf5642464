"""A process whose calls to Redis, the storage and receivers can fail, or be its last."""

from __future__ import annotations

import threading
from collections.abc import Callable
from enum import StrEnum
from typing import Any, TypeVar

import redis

from farm.domain.errors import StorageUnavailable
from farm.jobstore.connection import Client
from farm.jobstore.scripts import NAMES, digest, script_text

T = TypeVar("T")

_SCRIPTS = {digest(script_text(name)): name for name in NAMES}


class Died(BaseException):
    """The process is dead. None of its handlers catches this, and nothing that it still attempts happens."""


class Ill(StrEnum):
    """The ways in which a call can fail."""

    DIES_BEFORE = "dies before"
    DIES_AFTER = "dies after"
    CALL_LOST = "call lost"
    ANSWER_LOST = "answer lost"


class FailingCalls:
    """Counts the outgoing calls of a process, and makes one of them fail. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        #: What happens elsewhere when a call of this name has arrived.
        self.then: dict[str, Callable[[], None]] = {}
        self.begin()

    def begin(self, ill: Ill | None = None, at: int = -1) -> None:
        """Begin a new process whose `at`-th call fails with `ill`."""
        with self._lock:
            self._ill, self._at = ill, at
            self._is_dead = False
            #: The names of its calls so far.
            self.calls: list[str] = []

    @property
    def has_struck(self) -> bool:
        return 0 <= self._at < len(self.calls)

    def call(self, name: str, do: Callable[[], T], lost: Callable[[], Exception]) -> T:
        """Make a call, unless the process is dead. `lost` makes the error that the library would raise."""
        with self._lock:
            if self._is_dead:
                raise Died(name)
            ill = self._ill if len(self.calls) == self._at else None
            self.calls.append(name)
            self._is_dead = ill is Ill.DIES_BEFORE
        if ill is Ill.DIES_BEFORE:
            raise Died(name)
        if ill is Ill.CALL_LOST:
            raise lost()
        answer = do()
        if name in self.then:
            self.then[name]()
        if ill is Ill.DIES_AFTER:
            with self._lock:
                self._is_dead = True
            raise Died(name)
        if ill is Ill.ANSWER_LOST:
            raise lost()
        return answer


class MortalClient(Client):
    """A Redis client whose calls `FailingCalls` may fail: the library has already retried when a call is lost."""

    def __init__(self, failing_calls: FailingCalls, client: redis.Redis) -> None:
        super().__init__(connection_pool=client.connection_pool)
        self._failing_calls = failing_calls

    def execute_command(self, *command: Any, **options: Any) -> Any:
        name = _SCRIPTS.get(command[1], "script") if command[0] == "EVALSHA" else str(command[0])
        return self._failing_calls.call(
            name, lambda: super(MortalClient, self).execute_command(*command, **options), _no_answer
        )

    def pipeline(self, transaction: bool = True, shard_hint: str | None = None) -> Any:
        pipeline = super().pipeline(transaction, shard_hint)
        execute = pipeline.execute
        pipeline.execute = lambda *given: self._failing_calls.call("pipeline", lambda: execute(*given), _no_answer)  # type: ignore[method-assign]
        return pipeline


def _no_answer() -> Exception:
    return redis.exceptions.ConnectionError("The line is dead.")


class Mortal:
    """A wrapper of a storage, or of a client of receivers: `failing_calls` may fail each of its calls."""

    def __init__(
        self,
        failing_calls: FailingCalls,
        whole: Any,
        lost: Callable[[], Exception] = lambda: StorageUnavailable("Lost."),
    ) -> None:
        self._failing_calls = failing_calls
        self._whole = whole
        self._lost = lost

    def __getattr__(self, name: str) -> Any:
        method = getattr(self._whole, name)
        return lambda *given, **named: self._failing_calls.call(name, lambda: method(*given, **named), self._lost)
