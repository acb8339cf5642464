"""A request: its limits, its images' seeds, its batch key and its cost."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from farm.domain.catalogue import SEEDS
from farm.domain.request import Request
from tests.unit.dialects.samples import a_request


@pytest.mark.parametrize(
    ("field", "minimum", "maximum", "step"),
    [
        ("width", 256, 2560, 1),
        ("height", 256, 2560, 1),
        ("steps", 1, 50, 1),
        ("guidance", 1.0, 20.0, 0.01),
        ("seed", 0, 2**32 - 1, 1),
        ("images", 1, 4, 1),
    ],
)
def test_a_number_keeps_within_its_limits(field: str, minimum: float, maximum: float, step: float) -> None:
    for inside in (minimum, maximum):
        assert getattr(a_request(**{field: inside}), field) == inside
    for outside in (minimum - step, maximum + step):
        with pytest.raises(ValidationError, match=field):
            a_request(**{field: outside})


def test_a_prompt_has_up_to_4000_characters() -> None:
    with pytest.raises(ValidationError, match="prompt"):
        a_request(prompt="a" * 4001)
    assert len(a_request(prompt="🦊" * 4000).prompt) == 4000


@pytest.mark.parametrize(
    ("field", "value"), [("acceleration", "fast"), ("output_format", "webp"), ("mystery", 1), ("model", None)]
)
def test_an_unknown_field_of_a_request_is_refused(field: str, value: object) -> None:
    with pytest.raises(ValidationError, match=field):
        a_request(**{field: value})


def test_a_request_cannot_be_changed() -> None:
    request = a_request()

    with pytest.raises(ValidationError):
        request.seed = 8


def test_seeds_count_up_from_the_first_image() -> None:
    request = a_request(seed=7, images=4)

    assert [request.image(number).seed for number in range(4)] == [7, 8, 9, 10]


def test_seeds_wrap_around_at_2_to_the_32() -> None:
    request = a_request(seed=SEEDS - 1, images=3)

    assert [request.image(number).seed for number in range(3)] == [SEEDS - 1, 0, 1]


def test_an_image_carries_all_that_decides_its_pixels() -> None:
    image = a_request(width=300, height=400, steps=9, guidance=2.5, acceleration="high").image(0)

    assert (image.model, image.prompt, image.width, image.height) == ("srpo", "a red fox", 300, 400)
    assert (image.steps, image.guidance, image.acceleration) == (9, 2.5, "high")


@pytest.mark.parametrize(
    "change",
    [
        *({"prompt": "an owl"}, {"seed": 8}, {"guidance": 9.0}, {"steps": 5}, {"images": 2}, {"safety": False}),
        {"acceleration": "high"},
    ],
)
def test_requests_that_differ_only_so_share_a_batch(change: dict[str, Any]) -> None:
    assert a_request(**change).batch_key == a_request().batch_key


@pytest.mark.parametrize("change", [{"model": "kontext"}, {"width": 257}, {"height": 257}])
def test_requests_that_differ_so_share_no_batch(change: dict[str, Any]) -> None:
    assert a_request(**change).batch_key != a_request().batch_key


def test_sizes_of_equal_tokens_share_a_batch() -> None:
    assert a_request(width=257, height=300).batch_key == a_request(width=272, height=304).batch_key
    assert a_request(width=272).batch_key != a_request(width=273).batch_key


def test_sides_are_not_mixed_up_in_the_batch_key() -> None:
    assert a_request(width=300, height=400).batch_key != a_request(width=400, height=300).batch_key


def test_cost_is_full_steps_times_tokens_of_all_images() -> None:
    """In full steps of a megapixel, whose tokens are 3906 of the image and 512 of the prompt."""
    assert a_request(width=1000, height=1000, steps=10, images=3).cost == 30
    assert a_request(width=1000, height=2000, steps=10, images=3).cost == pytest.approx(30 * (7812.5 + 512) / 4418.25)
    edit = a_request(width=1000, height=1000, steps=1, model="kontext", sources=("https://images.example/cat.png",))
    assert edit.cost == pytest.approx(1 + 4096 / 4418.25)


def test_cost_counts_full_steps() -> None:
    """A caller of a faster level has its turn as often as its work takes."""
    costs = [
        a_request(width=1000, height=1000, steps=28, acceleration=level).cost for level in ("none", "regular", "high")
    ]
    remix = a_request(
        width=1000, height=1000, steps=28, strength=0.5, acceleration="regular", model="srpo-image-to-image"
    )

    assert (costs, remix.cost) == ([28, 14, 10], 7)


def test_survives_the_way_through_the_job_store() -> None:
    request = a_request(prompt='ünï "code" \U0001f98a \x00', guidance=4.5, seed=SEEDS - 1, images=4, safety=False)

    assert Request.model_validate_json(request.model_dump_json()) == request
