"""The counts of one process: added to the totals once, whatever happens to the connection."""

from __future__ import annotations

from pathlib import Path

import pytest
import redis

from farm.domain.errors import NotFound, StorageUnavailable, StoreUnavailable
from farm.jobstore import redis_keys
from farm.jobstore.tally import Tally
from farm.storage.local import LocalStorage
from farm.storage.measured import MeasuredStorage
from tests.service.workers.worker import FailingStorage


def totals(client: redis.Redis) -> dict[str, str]:
    return {str(name): str(value) for name, value in client.hgetall(redis_keys.TOTALS).items()}


def test_counts_of_several_processes_add_up(client: redis.Redis) -> None:
    for _ in range(2):
        tally = Tally(client)
        for _ in range(3):
            tally.add("refusals", "not_found")
        tally.observe("storage_operation_seconds", "put", value=0.02)
        tally.flush()
        tally.add("refusals", "not_found")
        tally.flush()
        tally.flush()

    assert totals(client) == {
        "refusals:not_found": "8",
        "storage_operation_seconds:put:1": "2",
        "storage_operation_seconds:put:sum": "40000",
    }


class LostAnswers(Tally):
    """Loses the answer to its first addition."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        run, lost = self._scripts.run, iter([True])

        def lose(name: str, *arguments: str | int | float) -> object:
            answer = run(name, *arguments)
            if next(lost, False):
                raise StoreUnavailable
            return answer

        self._scripts.run = lose  # type: ignore[method-assign]


def test_an_addition_whose_answer_was_lost_counts_once(client: redis.Redis) -> None:
    tally = LostAnswers(client)
    tally.add("refusals", "not_found")
    with pytest.raises(StoreUnavailable):
        tally.flush()
    tally.add("refusals", "unauthorized")

    for _ in range(2):
        tally.flush()

    assert totals(client) == {"refusals:not_found": "1", "refusals:unauthorized": "1"}


def test_operations_on_the_storage_are_counted(tmp_path: Path) -> None:
    counted: list[tuple[str, str]] = []

    def count(operation: str, seconds: float, error: BaseException | None) -> None:
        assert 0 <= seconds < 10
        counted.append((operation, "error" if error else "ok"))

    key = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11-1-0-0123456789abcdef.png"
    local = LocalStorage(tmp_path)
    failing = FailingStorage(local, StorageUnavailable(), works=lambda tried: tried > 0)
    storage = MeasuredStorage(failing, count)
    with pytest.raises(StorageUnavailable):
        storage.put(key, b"x")
    storage.put(key, b"x")
    assert storage.read(key) == b"x"
    storage.remove(key)
    with pytest.raises(NotFound):
        storage.read(key)

    assert counted == [("put", "error"), ("put", "ok"), ("read", "ok"), ("delete", "ok"), ("read", "ok")]
