"""Prefetched batches. A module of its own: the processes import this file, and no torch."""

from __future__ import annotations

import pytest

from miniature.batches import BatchQueue

#: The farm does not need what trains its miniature.
pytestmark = pytest.mark.full


def twice(step: int) -> int:
    return 2 * step


@pytest.mark.parametrize("processes", [0, 1])
def test_a_feed_gives_each_step_its_batch(processes: int) -> None:
    with BatchQueue(twice, processes) as batches:
        assert [batches(step) for step in (5, 6, 7)] == [10, 12, 14]
