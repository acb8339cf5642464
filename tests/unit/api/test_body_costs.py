"""CPU time and memory of hostile request bodies without images: limits by how they are sent."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from farm.dialects.fields import MAX_DIGITS, decode
from tests.body_costs import body_cost
from tests.hostile_bodies import BATCHES, BODIES, FORMS, JSON
from tests.image_costs import Cost, Measure, measuring_process

pytestmark = pytest.mark.slow

#: Forms that are read: what their parts say is judged later.
READ = {name for name in FORMS if name.startswith("a ")} - {"a head without an end", "a preamble"}


@pytest.fixture(scope="module")
def measure() -> Iterator[Measure[Cost]]:
    with measuring_process(body_cost) as measured:
        yield measured


def mebibytes(table: str, name: str) -> float:
    return len(BODIES[table][name]()) / 2**20


@pytest.mark.parametrize("name", JSON)
def test_json_is_refused_for_little(measure: Measure[Cost], name: str) -> None:
    cost, size = measure("JSON", name), mebibytes("JSON", name)

    assert cost.error
    assert cost.seconds < 0.5 + size / 50
    assert cost.mebibytes < 32 + 4 * size


@pytest.mark.full
@pytest.mark.parametrize("name", FORMS)
def test_a_form_is_read_or_refused_for_little(measure: Measure[Cost], name: str) -> None:
    cost, size = measure("form", name), mebibytes("form", name)

    assert bool(cost.error) == (name not in READ)
    assert cost.seconds < 0.5 + size / 50
    assert cost.mebibytes < 32 + 4 * size


@pytest.mark.parametrize("name", BATCHES)
def test_the_file_of_a_batch_is_refused_for_little(measure: Measure[Cost], name: str) -> None:
    """However long it is; a file of as many requests as are accepted takes a second."""
    cost = measure("batch", name)

    assert cost.error
    assert cost.seconds < 4
    assert cost.mebibytes < 128


def test_a_whole_number_may_have_as_many_digits_as_a_fraction_before_its_point() -> None:
    digits = "9" * MAX_DIGITS

    assert decode(f'{{"seed": {digits}}}'.encode()) == {"seed": int(digits)}
