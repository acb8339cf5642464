"""Images from callers: odd ones are decoded, hostile ones are refused before they cost anything."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Sequence
from itertools import product
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageCms

from farm.images import decode
from farm.images.decode import UnusableImage
from tests.hostile_images import chunk, encoded, huge_jpeg, huge_webp, png_of, quarters, scanned

#: The colours of `quarters`: upper left, upper right, lower left, lower right.
RED, GREEN, BLUE, WHITE = (255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255)
WEBP = {"lossless": True}


def corners(image: Image.Image) -> list[tuple[int, ...]]:
    """Return the colours of the four corners, in the order of `quarters`."""
    right, bottom = image.width - 1, image.height - 1
    return [pixel(image, x, y) for y, x in product((0, bottom), (0, right))]


def pixel(image: Image.Image, x: int = 0, y: int = 0) -> tuple[int, ...]:
    found = image.getpixel((x, y))
    assert isinstance(found, tuple)
    return found


def read(content: bytes) -> Image.Image:
    """Return the image, whatever its size was."""
    return decode.read(content)[0]


def refused(content: bytes) -> UnusableImage:
    """Return why this content is refused by its headers alone."""
    with pytest.raises(UnusableImage) as caught:
        decode.read_header(content)
    with pytest.raises(UnusableImage) as again:
        decode.read(content)
    assert (again.value.code, str(again.value)) == (caught.value.code, str(caught.value))
    return caught.value


# What may come


@pytest.mark.parametrize(("form", "extension"), [("JPEG", "jpeg"), ("PNG", "png"), ("WEBP", "webp")])
def test_an_image_is_known_by_its_content(form: str, extension: str) -> None:
    facts = decode.read_header(encoded(quarters(40, 30), form))

    assert (facts.extension, facts.width, facts.height) == (extension, 40, 30)


@pytest.mark.parametrize(("form", "options"), [("PNG", {}), ("WEBP", WEBP)])
def test_every_pixel_is_read_as_it_is(form: str, options: dict[str, Any]) -> None:
    noise = Image.fromarray(np.random.default_rng(1).integers(0, 256, (33, 47, 3), dtype=np.uint8))

    assert read(encoded(noise, form, **options)).tobytes() == noise.tobytes()


@pytest.mark.parametrize("progressive", [False, True])
def test_a_jpeg_is_read(progressive: bool) -> None:
    content = encoded(quarters(64, 64), "JPEG", quality=95, subsampling=0, progressive=progressive)

    assert np.allclose(corners(read(content)), [RED, GREEN, BLUE, WHITE], atol=4)


def turned(orientation: int) -> Image.Image:
    """Return an image that is `quarters` once rotated by its orientation."""
    back = {2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}  # Image.Transpose that undoes each
    upright = quarters(40, 30)
    return upright if orientation == 1 else upright.transpose(Image.Transpose(back[orientation]))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {"quality": 95, "subsampling": 0}), ("PNG", {}), ("WEBP", WEBP)]
)
def test_an_image_stands_upright_as_its_exif_says(orientation: int, form: str, options: dict[str, Any]) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation

    image = read(encoded(turned(orientation), form, exif=exif, **options))

    assert image.size == (40, 30)
    assert np.allclose(corners(image), [RED, GREEN, BLUE, WHITE], atol=4)


@pytest.mark.filterwarnings("ignore:Corrupt EXIF data")
@pytest.mark.parametrize("exif", [b"Exif\0\0", b"Exif\0\0II*\0\xff\xff\xff\xff", b"Exif\0\0" + b"\xff" * 50, b"\0" * 9])
@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_exif_that_cannot_be_read_spoils_no_image(exif: bytes, form: str) -> None:
    assert read(encoded(quarters(40, 30), form, exif=exif)).size == (40, 30)


def test_an_orientation_that_does_not_exist_turns_nothing() -> None:
    exif = Image.Exif()
    exif[0x0112] = 9

    assert corners(read(encoded(quarters(40, 30), "PNG", exif=exif))) == [RED, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(
    ("mode", "colour", "seen"),
    [
        ("1", 1, (255, 255, 255)),
        ("L", 100, (100, 100, 100)),
        ("P", 3, (30, 60, 90)),
        ("RGB", (1, 2, 3), (1, 2, 3)),
        ("RGBA", (10, 20, 30, 255), (10, 20, 30)),
        ("RGBA", (10, 20, 30, 0), (255, 255, 255)),
        ("RGBA", (0, 0, 0, 51), (204, 204, 204)),
        ("LA", (0, 0), (255, 255, 255)),
        ("LA", (100, 255), (100, 100, 100)),
    ],
)
def test_every_mode_becomes_rgb_on_white(mode: str, colour: Any, seen: tuple[int, ...]) -> None:
    image = Image.new(mode, (20, 20), colour)
    if mode == "P":
        image.putpalette([0, 0, 0] * 3 + [30, 60, 90])

    found = read(encoded(image, "PNG"))

    assert (found.mode, pixel(found)) == ("RGB", seen)


def test_a_transparent_colour_of_a_palette_shows_white() -> None:
    image = Image.new("P", (20, 20), 1)
    image.putpalette([9, 9, 9, 30, 60, 90])
    image.putpixel((0, 0), 0)

    found = read(encoded(image, "PNG", transparency=1))

    assert (pixel(found, 0, 0), pixel(found, 5, 5)) == ((9, 9, 9), (255, 255, 255))


def test_a_transparent_colour_of_rgb_shows_white() -> None:
    image = quarters(20, 20)

    assert corners(read(encoded(image, "PNG", transparency=RED))) == [WHITE, GREEN, BLUE, WHITE]


@pytest.mark.parametrize(("value", "seen"), [(0, 0), (255, 0), (256, 1), (32768, 128), (65535, 255)])
@pytest.mark.parametrize("extra", [b"", chunk(b"tRNS", struct.pack(">H", 5))])
def test_sixteen_bits_of_grey_become_eight(value: int, seen: int, extra: bytes) -> None:
    content = png_of(20, 20, rows=struct.pack(">H", value) * 20, depth=16, colour=0, extra=extra)

    assert pixel(read(content)) == (seen,) * 3


@pytest.mark.parametrize(("colour", "channels"), [(2, 3), (6, 4), (4, 2)])
def test_sixteen_bits_of_colour_become_eight(colour: int, channels: int) -> None:
    opaque = [0x8000] * (channels - 1 if channels % 2 == 0 else channels) + [0xFFFF] * (channels % 2 == 0)
    content = png_of(20, 20, rows=struct.pack(f">{channels}H", *opaque) * 20, depth=16, colour=colour)

    assert pixel(read(content)) == (128, 128, 128)


def test_cmyk_is_read_as_a_print_looks() -> None:
    cyan = Image.new("CMYK", (32, 32), (255, 0, 0, 0))

    assert np.allclose(pixel(read(encoded(cyan, "JPEG", quality=95))), (0, 255, 255), atol=4)


# Colour profiles


def display_p3() -> bytes:
    """Return a profile with the primaries of Display P3 and the tone curve of sRGB (SMPTE EG 432-1; values adapted to
    D50).
    """
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    primaries = {b"rXYZ": (0.51512, 0.24120, -0.00105), b"gXYZ": (0.29198, 0.69225, 0.04189)}
    primaries[b"bXYZ"] = (0.15710, 0.06657, 0.78407)
    profile = bytearray(srgb)
    for number in range(struct.unpack(">I", srgb[128:132])[0]):
        name, offset, _ = struct.unpack(">4sII", srgb[132 + 12 * number : 144 + 12 * number])
        if name in primaries:
            profile[offset + 8 : offset + 20] = struct.pack(">3i", *(round(v * 65536) for v in primaries[name]))
    return bytes(profile)


@pytest.mark.parametrize("form", ["JPEG", "PNG", "WEBP"])
def test_colours_of_another_space_become_those_of_srgb(form: str) -> None:
    """P3's (200, 100, 100) is a stronger red than sRGB's: about (213, 94, 97), by the matrices of both."""
    image = Image.new("RGB", (32, 32), (200, 100, 100))
    options = WEBP if form == "WEBP" else {"quality": 95}

    plain = pixel(read(encoded(image, form, **options)))
    converted = pixel(read(encoded(image, form, icc_profile=display_p3(), **options)))

    assert np.allclose(plain, (200, 100, 100), atol=3)
    assert np.allclose(converted, (213, 94, 97), atol=4)


def test_the_colours_of_a_transparent_image_are_converted_and_its_transparency_is_kept() -> None:
    image = Image.new("RGBA", (32, 32), (200, 100, 100, 255))
    image.putpixel((0, 0), (200, 100, 100, 0))

    found = read(encoded(image, "PNG", icc_profile=display_p3()))

    assert pixel(found, 0, 0) == (255, 255, 255)
    assert np.allclose(pixel(found, 5, 5), (213, 94, 97), atol=4)


def test_the_profile_of_srgb_changes_next_to_nothing() -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()

    found = read(encoded(quarters(32, 32), "PNG", icc_profile=profile))

    assert np.allclose(corners(found), [RED, GREEN, BLUE, WHITE], atol=2)


@pytest.mark.parametrize("profile", [b"nonsense", b"\0" * 128, display_p3()[:200]])
def test_a_profile_that_cannot_be_used_is_left_out(profile: bytes) -> None:
    found = read(encoded(quarters(32, 32), "PNG", icc_profile=profile))

    assert corners(found) == [RED, GREEN, BLUE, WHITE]


def test_a_profile_for_another_kind_of_image_is_left_out() -> None:
    """Three channels cannot mean what a profile of one says."""
    grey = Image.new("L", (32, 32), 100)

    assert pixel(read(encoded(grey, "PNG", icc_profile=display_p3()))) == (100, 100, 100)


# What is refused


@pytest.mark.parametrize(
    ("form", "options"),
    [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {}), ("WEBP", WEBP)],
)
def test_an_image_that_was_cut_off_is_no_image(form: str, options: dict[str, Any]) -> None:
    noise = Image.fromarray(np.random.default_rng(2).integers(0, 256, (48, 64, 3), dtype=np.uint8))
    content = encoded(noise, form, **options)

    for tenth in range(10):
        with pytest.raises(UnusableImage) as caught:
            read(content[: len(content) * tenth // 10])
        assert caught.value.code == "image_load_error"


@pytest.mark.parametrize(
    ("form", "options"), [("JPEG", {}), ("JPEG", {"progressive": True}), ("PNG", {}), ("WEBP", {})]
)
def test_wherever_an_image_is_cut_off_it_is_refused_or_read(form: str, options: dict[str, Any]) -> None:
    """Without its last bytes, which are no pixels, it may be complete; nothing else may happen."""
    noise = Image.fromarray(np.random.default_rng(5).integers(0, 256, (20, 20, 3), dtype=np.uint8))
    content = encoded(noise, form, **options)

    result = [told_of(content[:end]) for end in range(len(content))]

    assert set(result[:-30]) == {"image_load_error"}
    assert set(result[-30:]) <= {"image_load_error", "read"}


def told_of(content: bytes) -> str:
    """Return why the image is refused, or that it is not."""
    try:
        read(content)
    except UnusableImage as error:
        return error.code
    return "read"


def test_a_png_whose_pixels_are_damaged_is_no_image() -> None:
    content = bytearray(encoded(Image.effect_noise((64, 64), 90), "PNG"))
    middle = len(content) // 2
    content[middle : middle + 64] = bytes(64)

    with pytest.raises(UnusableImage, match="damaged") as caught:
        read(bytes(content))
    assert caught.value.code == "image_load_error"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\0",
        b"<!doctype html><p>Not found</p>",
        b'{"detail": "no"}',
        b"\xff\xd8\xff",
        b"RIFF\0\0\0\0WEBP",
        b"x" * 9999,
        encoded(quarters(20, 20), "PNG")[8:],
        b"PK\x03\x04" + bytes(100),
    ],
)
def test_a_file_that_is_not_an_image_is_refused(content: bytes) -> None:
    error = refused(content)

    assert error.code == "image_load_error"
    assert "JPEG, PNG, WEBP" in str(error)


@pytest.mark.parametrize(
    ("content", "kind"),
    [
        (encoded(quarters(20, 20), "GIF"), "a GIF"),
        (encoded(quarters(20, 20), "BMP"), "a BMP"),
        (encoded(quarters(20, 20), "TIFF"), "a TIFF"),
        (encoded(quarters(20, 20), "AVIF"), "an AVIF"),
        (encoded(quarters(20, 20), "ICO"), "an icon"),
        (encoded(quarters(20, 20), "PDF"), "a PDF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "a HEIC"),
        (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "an SVG"),
    ],
)
def test_an_image_of_another_kind_is_called_by_its_name(content: bytes, kind: str) -> None:
    error = refused(content)

    assert (error.code, error.context) == ("unsupported_image_format", {"supported_formats": ["JPEG", "PNG", "WEBP"]})
    assert kind in str(error)


def frames(count: int) -> list[Image.Image]:
    return [Image.new("RGB", (20, 20), (60 * number, 0, 0)) for number in range(count)]


@pytest.mark.parametrize("form", ["PNG", "WEBP"])
def test_an_animation_is_refused(form: str) -> None:
    first, *rest = frames(3)
    error = refused(encoded(first, form, save_all=True, append_images=rest))

    assert error.code == "unsupported_image_format"
    assert "animated" in str(error)


def test_a_photograph_with_a_second_image_behind_it_is_a_jpeg() -> None:
    """Phones make such files (CIPA's multi-image format): the first image is the one that is meant."""
    first, second = frames(2)
    content = encoded(first, "MPO", save_all=True, append_images=[second])

    assert decode.read_header(content).extension == "jpeg"
    assert np.allclose(pixel(read(content)), (0, 0, 0), atol=3)


@pytest.mark.parametrize("appended", [b"PK\x03\x04" + b"x" * 50, b"<script>alert(1)</script>", b"%PDF-1.7"])
@pytest.mark.parametrize("form", ["JPEG", "PNG"])
def test_bytes_after_an_image_are_not_copied(form: str, appended: bytes) -> None:
    copy, _ = decode.prepared(encoded(quarters(20, 20), form) + appended)

    assert appended not in copy


def test_metadata_of_an_image_is_not_copied() -> None:
    exif = Image.Exif()
    exif[0x010F] = "the maker of the camera"

    copy, _ = decode.prepared(encoded(quarters(20, 20), "JPEG", exif=exif, comment="a secret place"))

    assert b"the maker" not in copy
    assert b"secret" not in copy
    with Image.open(io.BytesIO(copy)) as image:
        assert set(image.info) == set()


@pytest.mark.parametrize(
    ("width", "height"), [(8001, 8000), (12_000, 7_000), (60_000, 60_000), (2**31 - 1, 2**31 - 1), (64_000_001, 1)]
)
def test_a_png_that_says_it_is_huge_is_refused(width: int, height: int) -> None:
    error = refused(png_of(width, height, rows=b""))

    assert (error.code, error.context) == ("image_too_large", {"max_pixels": 64_000_000})
    assert "64 megapixels" in str(error)


@pytest.mark.parametrize("content", [huge_webp(), huge_jpeg()], ids=["webp", "jpeg"])
def test_others_that_say_they_are_huge_are_refused(content: bytes) -> None:
    assert refused(content).code == "image_too_large"


@pytest.mark.parametrize(
    ("name", "head"), [(b"zTXt", b"Comment\0\0"), (b"iTXt", b"Comment\0\1\0\0\0"), (b"iCCP", b"sRGB\0\0")]
)
def test_a_text_or_profile_that_unpacks_to_much_more_is_refused(name: bytes, head: bytes) -> None:
    bomb = chunk(name, head + zlib.compress(bytes(20_000_000)))

    assert refused(png_of(20, 20, rows=bytes(60), extra=bomb)).code == "image_load_error"


def test_pixels_that_unpack_to_more_than_the_image_has_are_left() -> None:
    content = png_of(20, 20, rows=bytes(60))
    bomb = content[:33] + chunk(b"IDAT", zlib.compress(bytes(20_000_000))) + chunk(b"IEND", b"")

    began = time.process_time()
    assert read(bomb).size == (20, 20)
    assert time.process_time() - began < 1


def parted(form: str, part: bytes, times: int) -> bytes:
    """Return an image with so many more parts before its own."""
    content = encoded(quarters(20, 20), form)
    start = {"JPEG": 2, "PNG": 33}[form]
    return content[:start] + part * times + content[start:]


APP5, PRIVATE, GREY = b"\xff\xe5\0\2", chunk(b"prVt", b""), Image.new("L", (64, 64), 90)


@pytest.mark.parametrize(
    ("content", "excess"),
    [
        (scanned(GREY, 60), "more than 50 scans"),
        (parted("JPEG", APP5, 110_000), "too many pieces of metadata"),
        (parted("JPEG", b"\xff\xd0", 60_000), "more than 100000 parts"),
        (parted("PNG", PRIVATE, 110_000), "too many pieces of metadata"),
    ],
    ids=["scans", "segments", "rubbish", "chunks"],
)
def test_an_image_that_takes_hours_to_decode_is_refused(content: bytes, excess: str) -> None:
    error = refused(content)

    assert error.code == "image_load_error"
    assert excess in str(error)


@pytest.mark.parametrize(
    "content",
    [scanned(GREY, 30), parted("JPEG", APP5, 900), parted("PNG", PRIVATE, 900), parted("JPEG", b"\xff", 9000)],
    ids=["scans", "segments", "chunks", "padding"],
)
def test_an_image_of_many_parts_is_read(content: bytes) -> None:
    assert read(content).width in (20, 64)


def test_scans_after_the_end_of_a_jpeg_are_not_counted() -> None:
    assert read(encoded(quarters(20, 20), "JPEG") + b"\xff\xda\0\2" * 60).size == (20, 20)


@pytest.mark.parametrize(("width", "height"), [(15, 400), (400, 15), (1, 1)])
def test_an_image_that_is_too_small_is_refused(width: int, height: int) -> None:
    error = refused(encoded(quarters(width, height), "PNG"))

    assert (error.code, error.context) == ("image_too_small", {"min_width": 16, "min_height": 16})


def test_the_smallest_and_a_long_image_are_taken() -> None:
    assert read(encoded(quarters(16, 16), "PNG")).size == (16, 16)
    assert decode.read(encoded(quarters(16, 4000), "PNG"))[1] == (16, 4000)


def test_a_file_of_the_most_bytes_is_taken_and_one_more_is_not() -> None:
    content = encoded(quarters(20, 20), "JPEG")
    padded = content + bytes(decode.MAX_BYTES - len(content))

    assert decode.read_header(padded).extension == "jpeg"
    error = refused(padded + b"\0")
    assert (error.code, error.context) == ("file_too_large", {"max_size": 50_000_000})


# The farm's copy


def test_a_copy_has_the_same_pixels() -> None:
    noise = Image.fromarray(np.random.default_rng(3).integers(0, 256, (50, 70, 3), dtype=np.uint8))

    copy, size = decode.prepared(encoded(noise, "WEBP", **WEBP))

    assert size == (70, 50)
    with Image.open(io.BytesIO(copy)) as image:
        assert (image.format, image.mode, image.tobytes()) == ("PNG", "RGB", noise.tobytes())


@pytest.mark.parametrize(
    ("size", "kept"), [((2560, 20), (2560, 20)), ((2600, 1300), (2560, 1280)), ((1300, 2600), (1280, 2560))]
)
def test_a_copy_is_no_larger_than_a_rendered_image_may_be(size: Sequence[int], kept: tuple[int, int]) -> None:
    copy, result = decode.prepared(encoded(quarters(*size), "PNG"))

    assert result == tuple(size)
    with Image.open(io.BytesIO(copy)) as image:
        assert image.size == kept


def test_a_copy_stands_upright_and_so_does_its_size() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6

    copy, size = decode.prepared(encoded(turned(6), "PNG", exif=exif))

    assert size == (40, 30)
    with Image.open(io.BytesIO(copy)) as image:
        assert corners(image) == [RED, GREEN, BLUE, WHITE]
