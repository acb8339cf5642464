"""Which checker stands beside which weights."""

from __future__ import annotations

import pytest
from PIL import Image

from farm.errors import ConfigurationError
from workers.safety import THRESHOLDS, BundledChecker, checker_for


@pytest.mark.parametrize("weights", ["miniature", "simulated"])
@pytest.mark.parametrize("setting", [None, "bundled"])
def test_bundled_checker_stands_beside_the_bundled_weights(setting: str | None, weights: str) -> None:
    checker = checker_for(setting, weights)

    assert isinstance(checker, BundledChecker)
    assert [checker.check(Image.new("RGB", (8, 8)), tolerance) for tolerance in range(1, 7)] == [False] * 6


def test_every_tolerance_has_a_threshold_of_its_own_and_none_turns_the_check_off() -> None:
    in_order = [THRESHOLDS[tolerance] for tolerance in range(1, 7)]

    assert len(THRESHOLDS) == 6
    assert in_order == sorted(set(in_order))
    assert 0 < in_order[0] < in_order[-1] < 1


def test_real_weights_need_a_decision() -> None:
    with pytest.raises(ConfigurationError, match="FARM_SAFETY must be set"):
        checker_for(None, "flux-1-dev + srpo")


def test_bundled_checker_does_not_start_beside_real_weights() -> None:
    with pytest.raises(ConfigurationError, match="flux-1-dev \\+ srpo"):
        checker_for("bundled", "flux-1-dev + srpo")


@pytest.mark.parametrize("weights", ["miniature", "flux-1-dev + srpo"])
def test_checking_can_be_turned_off(weights: str) -> None:
    assert checker_for("off", weights) is None


@pytest.mark.parametrize("setting", ["clip", "vit"])
def test_a_checker_that_is_not_there_is_no_silent_no_check(setting: str) -> None:
    with pytest.raises(ConfigurationError, match=f'"{setting}" is not there yet'):
        checker_for(setting, "miniature")


def test_an_unknown_checker_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="allowed are bundled, clip, vit, off"):
        checker_for("none", "miniature")
