"""The size that follows from an input image."""

from __future__ import annotations

import pytest

from farm.domain.catalogue import KONTEXT_SIZES, MAX_PIXELS, MAX_SIDE, MIN_SIDE, nearest_size
from tests.unit.dialects.samples import a_request
from workers.sizing import fitted, sized


@pytest.mark.parametrize(
    ("given", "settled"),
    [
        ((256, 256), (256, 256)),
        ((1000, 777), (1000, 777)),
        ((2560, 1093), (2560, 1093)),
        ((16, 16), (256, 256)),
        ((128, 300), (256, 600)),
        ((4000, 4000), (1673, 1673)),
        ((8000, 4000), (2366, 1183)),
        ((5120, 1280), (2560, 640)),
        ((20, 4000), (256, 2560)),
        ((4000, 20), (2560, 256)),
    ],
)
def test_an_inputs_own_size_is_kept_as_far_as_the_limits_allow(
    given: tuple[int, int], settled: tuple[int, int]
) -> None:
    assert fitted(*given) == settled


def test_no_input_leads_beyond_the_limits() -> None:
    for width in range(16, 9000, 97):
        for height in range(16, 7000, 89):
            one, other = fitted(width, height)
            assert MIN_SIDE <= min(one, other) <= max(one, other) <= MAX_SIDE, (width, height)
            assert one * other <= MAX_PIXELS, (width, height)
            if 0.12 < width / height < 8:
                assert one / other == pytest.approx(width / height, rel=0.01), (width, height)


@pytest.mark.parametrize(("name", "size"), KONTEXT_SIZES.items())
def test_the_nearest_of_kontexts_sizes_is_found(name: str, size: tuple[int, int]) -> None:
    wide, high = map(int, name.split(":"))

    assert nearest_size(100 * wide, 100 * high, KONTEXT_SIZES) == size
    assert nearest_size(*size, KONTEXT_SIZES) == size


@pytest.mark.parametrize(
    ("given", "ratio"), [((4000, 100), "21:9"), ((100, 4000), "9:21"), ((1001, 1000), "1:1"), ((1280, 800), "3:2")]
)
def test_a_ratio_between_goes_to_the_nearer_side(given: tuple[int, int], ratio: str) -> None:
    assert nearest_size(*given, KONTEXT_SIZES) == KONTEXT_SIZES[ratio]


def test_a_request_says_how_its_size_is_settled() -> None:
    request = a_request(width=512, height=512)

    assert sized(request, 800, 300) is request
    own = sized(request.model_copy(update={"sizing": "input"}), 800, 300)
    assert (own.width, own.height) == (800, 300)
    table = sized(request.model_copy(update={"sizing": "ratio"}), 800, 300)
    assert (table.width, table.height) == KONTEXT_SIZES["21:9"]
