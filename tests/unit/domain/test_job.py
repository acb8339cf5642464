"""The states of a job and the one table of transitions."""

from __future__ import annotations

import pytest

from farm.domain.job import TRANSITIONS, Batch, Claimed, State
from tests.unit.dialects.samples import a_job, a_request

#: The contract, section 4: from → to. `created` → `completed` is the late winner.
ALLOWED = {
    ("created", "processing"),
    ("created", "completed"),
    ("created", "failed"),
    ("processing", "created"),
    ("processing", "completed"),
    ("processing", "failed"),
}


@pytest.mark.parametrize("before", State)
@pytest.mark.parametrize("after", State)
def test_only_what_the_contract_says_may_follow(before: State, after: State) -> None:
    assert (before in TRANSITIONS[after]) is ((before, after) in ALLOWED)


@pytest.mark.parametrize(
    ("state", "terminal"), [("created", False), ("processing", False), ("completed", True), ("failed", True)]
)
def test_an_end_is_an_end(state: str, terminal: bool) -> None:
    assert State(state).is_terminal is terminal
    assert terminal is not any(state in befores for befores in TRANSITIONS.values())


def test_a_jobs_steps_are_those_of_all_its_images() -> None:
    assert a_job(request=a_request(steps=28, images=3)).steps == 84


def test_an_empty_batch_is_false() -> None:
    assert not Batch()
    assert Batch((Claimed("id", fence=1, attempt=1, request=a_request()),))
