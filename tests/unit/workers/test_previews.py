"""The files of previews: bounded in pixels and in bytes, whatever they show."""

from __future__ import annotations

import io

import pytest
from PIL import Image

from workers.previews import MAX_BYTES, MAX_CHECKED_SIDE, MAX_SIDE, encoded


@pytest.mark.parametrize("max_side", [MAX_SIDE, MAX_CHECKED_SIDE])
@pytest.mark.parametrize("size", [(320, 136), (60, 320), (256, 256)])
def test_even_noise_is_small(size: tuple[int, int], max_side: int) -> None:
    noise = Image.merge("RGB", [Image.effect_noise(size, 255)] * 2 + [Image.effect_noise(size, 255)])

    content = encoded(noise, max_side)

    with Image.open(io.BytesIO(content)) as image:
        assert max(image.size) == max_side
        assert image.width / image.height == pytest.approx(size[0] / size[1], rel=0.05)
    assert len(content) <= MAX_BYTES
    # With its envelope, in base64.
    assert len(content) * 4 / 3 + 200 < 20_000


def test_a_small_one_stays_as_it_is() -> None:
    with Image.open(io.BytesIO(encoded(Image.new("RGB", (32, 24), "red"), MAX_SIDE))) as image:
        assert image.size == (32, 24)
