"""Thousands of jobs at once: submitted through the store's own `submit`, but sent to Redis a hundred at a time."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Any

import redis

from farm.domain.job import NewJob
from farm.jobstore.scripts import Scripts
from farm.jobstore.store import JobStore, Terms

#: Redis answers when it has done all of them, within the time that the farm allows it for one.
_AT_ONCE = 100


class _Gathering(Scripts):
    """Collects calls instead of making them."""

    def __init__(self, client: redis.Redis) -> None:
        super().__init__(client)
        self._calls: list[tuple[str, tuple[Any, ...]]] = []

    def run(self, name: str, *arguments: Any) -> Any:
        self._calls.append((name, arguments))
        return ["accepted", arguments[0], 0, 0, 0, 0]

    def send(self) -> list[Any]:
        """Make the collected calls, and return their answers."""
        with self._client.pipeline(transaction=False) as pipeline:
            scripts = {name: pipeline.register_script(text) for name, text in self._texts.items()}
            for name, arguments in self._calls:
                scripts[name](args=list(arguments))
            self._calls.clear()
            return pipeline.execute()


def submit_all(client: redis.Redis, terms: Terms, jobs: Iterable[NewJob]) -> int:
    """Submit all jobs in order, and return how many there were. All must be accepted."""
    store, gathering = JobStore(client, terms), _Gathering(client)
    store._scripts = gathering
    remaining, count = iter(jobs), 0
    while chunk := list(islice(remaining, _AT_ONCE)):
        for new in chunk:
            store.submit(new)
        assert {verdict for verdict, *_ in gathering.send()} == {"accepted"}
        count += len(chunk)
    return count
