"""ICC profiles without their elements, which are not proportional to the profile."""

from __future__ import annotations

import io

import pytest
from PIL import Image, ImageCms

from farm.images.colour_profile import without_elements
from tests.hostile_images import profile_of_elements

SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))


def test_a_usual_profile_stays_as_it_is() -> None:
    assert without_elements(SRGB.tobytes()) == SRGB.tobytes()


def test_elements_are_not_found_by_the_decoder() -> None:
    found = profile_of_elements(1)
    assert _converts(found)  # so this is a profile that would be applied

    assert not _converts(without_elements(found))


@pytest.mark.parametrize("content", [b"", bytes(128), bytes(128) + b"\xff\xff\xff\xff", bytes(131) + b"\1D2"])
def test_a_cut_profile_is_no_error(content: bytes) -> None:
    assert len(without_elements(content)) == len(content)


def _converts(profile: bytes) -> bool:
    source = ImageCms.ImageCmsProfile(io.BytesIO(profile))
    try:
        ImageCms.profileToProfile(Image.new("RGB", (1, 1)), source, SRGB)
    except ImageCms.PyCMSError:
        return False
    return True
