"""A worker that no wake-up reaches while jobs wait is found out."""

from __future__ import annotations

import pytest

from farm.bootstrap import Farm
from farm.callers import LOCAL
from farm.job import Order
from farm.request import Request
from workers.hearing import Hearing
from workers.render import Renderer


class IdleRenderer(Renderer):
    """A renderer that last looked for work some seconds ago."""

    def __init__(self, idle_seconds: float) -> None:
        self._idle = idle_seconds

    @property
    def idle_seconds(self) -> float:
        return self._idle


@pytest.mark.parametrize(("jobs", "idle_seconds", "lost"), [(1, 61.0, True), (1, 59.0, False), (0, 61.0, False)])
def test_only_long_silence_beside_waiting_jobs_counts(farm: Farm, jobs: int, idle_seconds: float, lost: bool) -> None:
    farm.store.renew("w", {"state": "warm", "models": "srpo", "weights": "x", "safety": "bundled", "build": "b"}, [])
    request = Request(model="srpo", prompt="a fox", width=256, height=256, steps=1, guidance=1, seed=1)
    for _ in range(jobs):
        farm.service.submit(LOCAL, Order("srpo", request))

    assert Hearing(IdleRenderer(idle_seconds), farm.census, ("srpo",)).is_lost() is lost
