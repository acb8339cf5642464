"""CPU time and memory of hostile image files, in the API and in preparation: limits by kind of file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from farm.images.decode import read_header
from tests.hostile_images import FULL, HUGE, OVERFULL, USUAL, VAST
from tests.image_costs import Costs, Measure, file_costs, measuring_process

pytestmark = pytest.mark.slow

#: Memory of an image of 64 megapixels while it is decoded, in MiB.
VAST_MEBIBYTES = 1150


@pytest.fixture(scope="module")
def measure() -> Iterator[Measure[Costs]]:
    with measuring_process(file_costs) as measured:
        yield measured


@pytest.mark.parametrize("name", OVERFULL)
def test_a_file_of_metadata_is_refused_before_it_costs_anything(measure: Measure[Costs], name: str) -> None:
    costs = measure("overfull", name)

    assert "metadata" in costs.intake.error or "Exif" in costs.intake.error
    assert costs.preparation.error in costs.intake.error
    assert costs.intake.seconds < 0.5 + costs.mebibytes / 50
    assert costs.intake.mebibytes < 16 + 9 * costs.mebibytes
    assert costs.preparation.seconds < 0.2
    assert costs.preparation.mebibytes < 8


@pytest.mark.parametrize("name", FULL)
def test_as_much_metadata_as_is_accepted_costs_little(measure: Measure[Costs], name: str) -> None:
    costs = measure("full", name)

    assert not costs.intake.error
    assert not costs.preparation.error
    assert costs.intake.seconds < 1
    assert costs.intake.mebibytes < 16 + 9 * costs.mebibytes
    assert costs.preparation.seconds < 2
    assert costs.preparation.mebibytes < 64 + 9 * costs.mebibytes


@pytest.mark.parametrize("name", HUGE)
def test_an_image_that_says_it_is_huge_costs_nothing(measure: Measure[Costs], name: str) -> None:
    costs = measure("huge", name)

    assert "64 megapixels" in costs.intake.error
    assert "64 megapixels" in costs.preparation.error
    assert costs.intake.seconds + costs.preparation.seconds < 0.5
    assert costs.intake.mebibytes + costs.preparation.mebibytes < 16


def test_a_large_image_takes_little_more_memory_than_its_pixels(measure: Measure[Costs]) -> None:
    """16 megapixels are 64 MB; every step on all of them would take as much again."""
    costs = measure("large", "PNG with a profile")

    assert not costs.preparation.error
    assert costs.preparation.mebibytes < 220


@pytest.mark.full
@pytest.mark.parametrize("name", VAST)
def test_the_largest_image_costs_the_api_nothing_and_preparation_as_documented(
    measure: Measure[Costs], name: str
) -> None:
    costs = measure("vast", name)

    assert not costs.preparation.error
    assert costs.intake.seconds < 0.2
    assert costs.intake.mebibytes < 16 + 9 * costs.mebibytes
    assert costs.preparation.seconds < 15
    assert costs.preparation.mebibytes < VAST_MEBIBYTES


@pytest.mark.parametrize("make", USUAL.values(), ids=USUAL)
def test_the_metadata_of_cameras_and_editors_is_fine(make: Callable[[], bytes]) -> None:
    assert (read_header(make()).width, read_header(make()).height) == (64, 48)
