"""The simulated farm: waiting times that can be worked out by hand."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from farm.domain.scheduling import QueuePriority
from farm.simulation.farm import Cards, Outcome, SimulatedFarm
from farm.simulation.trace import Arrival, shape_of

MEGAPIXEL = (1000, 1000)


def arrival(at: float, *, priority: QueuePriority = "normal", images: int = 1, model: str = "srpo") -> Arrival:
    """Return a job of ten full steps of a megapixel for each image: a second at a pace of 0.1."""
    return Arrival(at, "ada", priority, shape_of(model, MEGAPIXEL, 10, images, "none"))


def simulated(arrivals: Iterable[Arrival], *, together: int = 1, gain: float = 1.0, count: int = 1) -> Outcome:
    cards = Cards(count, 0.1, together, gain, start_seconds=0, end_seconds=0)
    return SimulatedFarm(cards).run(arrivals)


def waits(outcome: Outcome, priority: str = "normal") -> list[float]:
    return [round(seconds, 6) for seconds in outcome.times[priority].to_start]


def test_jobs_of_one_card_wait_for_one_another() -> None:
    outcome = simulated([arrival(0), arrival(0.25), arrival(10, images=2)])

    assert waits(outcome) == [0, 0.75, 0]
    assert list(outcome.times["normal"].to_end) == pytest.approx([1, 1.75, 2])
    assert (outcome.jobs, outcome.images) == (3, 4)
    assert (outcome.busy_seconds, outcome.end) == pytest.approx((4, 12))


def test_idle_cards_start_at_once_and_models_share_them() -> None:
    outcome = simulated([arrival(0), arrival(0.1, model="kontext"), arrival(0.2)], count=2)

    assert waits(outcome) == [0, 0, 0.8]


def test_an_urgent_job_goes_before_all_bulk_that_waits() -> None:
    outcome = simulated([*(arrival(0, priority="bulk") for _ in range(10)), arrival(0.5)])

    assert waits(outcome) == [0.5]
    assert waits(outcome, "bulk")[1:3] == [2, 3]


def test_images_that_share_a_forward_join_and_leave_one_by_one() -> None:
    """Two together take 1.6 seconds for what one takes a second for."""
    outcome = simulated([arrival(0), arrival(0.5)], together=2, gain=1.25)

    assert waits(outcome) == [0, 0]
    # The first has half of its work left, at 0.625 of its speed alone; the second then finishes alone.
    assert list(outcome.times["normal"].to_end) == pytest.approx([1.3, 0.5 + 0.8 + 0.5 - 0.5], abs=1e-6)


def test_a_flight_of_another_size_is_waited_for() -> None:
    small = Arrival(0.5, "ada", "normal", shape_of("srpo", (512, 512), 10, 1, "none"))
    outcome = simulated([arrival(0), small], together=4)

    assert waits(outcome) == [0, 0.5]
    assert outcome.batches == {1: 2}
