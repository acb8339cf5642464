"""Levels of acceleration: masks for every number of steps, and what a level may be."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from farm.domain.acceleration import BUNDLED, MIN_FULL_STEPS, Level, stretched
from farm.domain.catalogue import MAX_STEPS, Acceleration

REGULAR = "1111110101001001001001000101"
HIGH = "1100010010010010001001001001"


@pytest.mark.parametrize(
    ("acceleration", "mask"), [("none", "1" * 28), ("regular", REGULAR), ("high", HIGH)], ids=lambda value: value[:7]
)
def test_the_masks_of_28_steps_are_those_that_were_measured(acceleration: Acceleration, mask: str) -> None:
    assert BUNDLED.level(acceleration).mask(28) == mask
    assert BUNDLED.full_steps(acceleration, 28) == mask.count("1")


@pytest.mark.parametrize("acceleration", ["regular", "high"])
@pytest.mark.parametrize("steps", range(1, MAX_STEPS + 1))
def test_a_mask_of_any_number_of_steps_keeps_the_promises(acceleration: Acceleration, steps: int) -> None:
    mask = BUNDLED.level(acceleration).mask(steps)
    share = BUNDLED.full_steps(acceleration, 28) / 28

    assert len(mask) == steps
    assert mask[0] == mask[-1] == "1"
    assert mask.count("1") == min(steps, max(MIN_FULL_STEPS, int(steps * share + 0.5)))
    assert BUNDLED.full_steps("none", steps) == steps >= BUNDLED.full_steps("regular", steps)
    assert BUNDLED.full_steps("regular", steps) >= BUNDLED.full_steps("high", steps)


@pytest.mark.parametrize("steps", range(10, MAX_STEPS + 1))
def test_a_stretched_mask_is_as_dense_as_its_original_everywhere(steps: int) -> None:
    """At each share of the way, as many of its full steps are done as of the original's, but for less than two."""
    for original in (REGULAR, HIGH):
        mask = stretched(original, steps)
        for step in range(steps):
            done = mask[: step + 1].count("1") / mask.count("1")
            of_original = original[: round(step * 27 / (steps - 1)) + 1].count("1") / original.count("1")
            assert abs(done - of_original) * mask.count("1") < 2, (mask, step)


@pytest.mark.parametrize("steps", range(5, MAX_STEPS + 1))
def test_two_full_steps_at_the_beginning_stay_two(steps: int) -> None:
    assert stretched(HIGH, steps)[:2] == stretched(REGULAR, steps)[:2] == "11"
    assert stretched("1010101", 20).startswith("10")


def test_stretching_to_the_same_number_changes_nothing() -> None:
    assert [stretched(REGULAR, 28), stretched(HIGH, 28)] == [REGULAR, HIGH]


def test_no_step_means_no_mask() -> None:
    """Image to image of strength 0."""
    assert [BUNDLED.level(level).mask(0) for level in ("none", "regular", "high")] == ["", "", ""]


def test_a_mask_of_its_own_comes_before_the_rule() -> None:
    level = Level(order=1, masks={28: REGULAR, 10: "1111100001"})

    assert level.mask(10) == "1111100001"
    assert level.mask(9) == stretched("1111100001", 9)
    assert level.mask(28) == REGULAR


def test_a_level_may_have_a_transformer_in_fp8_which_the_bundled_ones_have_not() -> None:
    other = BUNDLED.model_copy(update={"high": Level(order=2, masks=BUNDLED.high.masks, quantize="fp8")})

    assert (BUNDLED.in_fp8, other.in_fp8) == ((), ("high",))
    assert other.table() != BUNDLED.table()


@pytest.mark.parametrize(
    ("order", "masks", "reason"),
    [
        (3, {28: REGULAR}, "less than or equal to 2"),
        (2, {}, "at least 1 item"),
        (2, {28: "0" + REGULAR[1:]}, "match pattern"),
        (2, {28: REGULAR[:-1] + "0"}, "match pattern"),
        (2, {27: REGULAR}, "27 steps has 28 digits"),
        (2, {8: "10010101"}, "fewer than 5 full"),
        (2, {51: "1" * 51}, "less than or equal to 50"),
    ],
)
def test_an_unknown_level_is_refused(order: int, masks: dict[int, str], reason: str) -> None:
    with pytest.raises(ValidationError, match=reason):
        Level(order=order, masks=masks)
