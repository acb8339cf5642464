"""The thread that warms up the rest of a pipeline."""

from __future__ import annotations

import pytest

from tests.farms import wait_for
from workers import warming
from workers.warming import WarmUpThread


def test_remaining_shapes_are_warmed_up_while_the_worker_is_idle(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(warming, "_PAUSE_SECONDS", 0.001)
    done: list[str] = []
    looks: list[int] = []
    idle = False

    def is_idle() -> bool:
        looks.append(len(done))
        return idle

    def fail() -> None:
        done.append("fails")
        raise RuntimeError("CUDA out of memory")

    thread = WarmUpThread([lambda: done.append("first"), fail, lambda: done.append("last")], is_idle=is_idle)
    thread.start()
    wait_for(lambda: len(looks) > 3, what="looks at a busy worker")
    assert done == []

    idle = True
    thread.join(20)

    assert done == ["first", "fails", "last"]
    assert not thread.is_alive()
