"""Candidates: masks that keep a level's promises, each once."""

from __future__ import annotations

import pytest

from farm.domain.acceleration import BUNDLED
from workers.calibration.candidates import Candidate, allowed_steps, candidates


@pytest.mark.parametrize("steps", range(6, 51))
def test_candidates_are_levels_and_each_level_has_some(steps: int) -> None:
    found = candidates(steps, orders=(1, 2))

    assert len(found) == len(set(found))
    assert all(len(candidate.mask) == steps > candidate.full_steps for candidate in found)
    assert all(candidate.level.mask(steps) == candidate.mask for candidate in found)
    assert {candidate.order for candidate in found if candidate.may_be("high")} == {1, 2}


def test_the_bundled_masks_are_among_them_and_so_is_what_was_asked_for() -> None:
    further = "1" * 20 + "0" * 7 + "1"
    masks = [candidate.mask for candidate in candidates(28, orders=(2,), further=[further, "1" * 28])]

    assert {BUNDLED.regular.mask(28), BUNDLED.high.mask(28), further} <= set(masks)
    assert "1" * 28 not in masks
    assert [mask.count("1") for mask in masks] == sorted((mask.count("1") for mask in masks), reverse=True)


@pytest.mark.parametrize(("steps", "regular", "high"), [(28, 14, 10), (50, 25, 18), (10, 5, 5), (6, 5, 5)])
def test_a_level_computes_a_share_of_the_steps_and_never_fewer_than_five(steps: int, regular: int, high: int) -> None:
    assert (allowed_steps("regular", steps), allowed_steps("high", steps)) == (regular, high)


def test_a_mask_of_the_slower_level_is_refused_for_the_faster() -> None:
    candidate = Candidate(BUNDLED.regular.mask(28), order=2)

    assert (candidate.may_be("regular"), candidate.may_be("high")) == (True, False)
