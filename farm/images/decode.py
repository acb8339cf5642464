"""Decoding of callers' images: headers are checked first, then pixels are converted to upright sRGB.

A file's name and declared type are ignored, and its headers are checked before anything is decoded.
"""

from __future__ import annotations

import io
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Literal

from PIL import Image, ImageCms, ImageOps

from farm.domain.catalogue import MAX_INPUT_BYTES, MAX_SIDE
from farm.domain.error_codes import Code
from farm.domain.errors import FarmError
from farm.images.colour_profile import without_elements
from farm.images.file_structure import excess_in

#: Largest file, in bytes.
MAX_BYTES = MAX_INPUT_BYTES
#: Most pixels (64 megapixels).
MAX_PIXELS = 64_000_000
#: Shortest side, in pixels: one cell of the transformer's grid.
MIN_SIDE = 16
#: Accepted formats. Pillow opens no other format here.
FORMATS = ("JPEG", "PNG", "WEBP")
#: zlib's fastest level: a copy is read once or twice.
_FASTEST = 1
#: Pillow's modes of grey images with more than 8 bits.
_SIXTEEN_BITS = ("I;16", "I;16B", "I")
#: Modes that can be scaled as they are.
_SCALABLE = ("L", "LA", "RGB", "RGBA", "CMYK")

Extension = Literal["jpeg", "png", "webp"]
#: Phones put a second image behind a JPEG, such as its depths; Pillow then calls the file MPO.
_EXTENSIONS: Mapping[str | None, Extension] = {"JPEG": "jpeg", "MPO": "jpeg", "PNG": "png", "WEBP": "webp"}

#: Signatures of other formats, so that an error can name the format.
_OTHER_SIGNATURES = (
    (b"GIF8", "a GIF"),
    (b"BM", "a BMP"),
    (b"II*\0", "a TIFF"),
    (b"MM\0*", "a TIFF"),
    (b"%PDF", "a PDF"),
    (b"<svg", "an SVG"),
    (b"\0\0\1\0", "an icon"),
    (b"\xff\x0a", "a JPEG XL"),
    (b"\0\0\0\x0cJXL ", "a JPEG XL"),
)
#: The brands of files that begin with an `ftyp` box (ISO 14496-12).
_BRANDS = {b"avif": "an AVIF", b"avis": "an AVIF", b"heic": "a HEIC", b"heix": "a HEIC", b"mif1": "a HEIC"}

_SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB"))
#: An image at the limit takes up to 1.1 GB while it is decoded (a WebP with transparency), so one is at a time.
_decoding = threading.Lock()


class UnusableImage(FarmError):
    """The image cannot be used."""

    code: str = Code.IMAGE_LOAD_ERROR

    def __init__(self, kind: str, message: str, context: Mapping[str, object] | None = None) -> None:
        """`kind` is fal's error type, and `context` holds the limits that were exceeded."""
        super().__init__(message)
        self.code = kind
        self.context = context


@dataclass(frozen=True, slots=True)
class ImageHeader:
    """Format and size of an image by its headers. Width and height are as stored, before any EXIF rotation."""

    extension: Extension
    width: int
    height: int


def read_header(content: bytes) -> ImageHeader:
    """Return the format and size of an image without decoding it. Raises UnusableImage."""
    with _opened(content) as image:
        return ImageHeader(_EXTENSIONS[image.format], *image.size)


def read(content: bytes) -> tuple[Image.Image, tuple[int, int]]:
    """Decode an image; return it with its original size, upright. Raises UnusableImage.

    The result is upright, in sRGB, on white where it was transparent, in mode RGB, and no larger than the largest
    image that the farm renders.
    """
    with _decoding, _opened(content) as image:
        with _decoder_errors():
            image.load()
        _turn_upright(image)
        size = image.size
        return _plain(_reduced(image)), size


def prepared(content: bytes) -> tuple[bytes, tuple[int, int]]:
    """Return an image re-encoded as PNG, and its original size, upright. Raises UnusableImage."""
    image, size = read(content)
    copy = io.BytesIO()
    image.save(copy, "PNG", compress_level=_FASTEST)
    return copy.getvalue(), size


def check_size(length: int) -> None:
    """Raise UnusableImage for a file that is too large."""
    if length > MAX_BYTES:
        raise file_too_large(f"the image has {length} bytes")


def file_too_large(what: str) -> UnusableImage:
    """Return the error for a file that is too large; `what` begins its message."""
    return UnusableImage(Code.FILE_TOO_LARGE, f"{what}; allowed: up to {MAX_BYTES} bytes", {"max_size": MAX_BYTES})


@contextmanager
def _opened(content: bytes) -> Iterator[Image.Image]:
    """Open an image by its headers, and check the limits."""
    check_size(len(content))
    if other := _other_kind(content):
        raise _unsupported(f"the image is {other}; allowed: {', '.join(FORMATS)}")
    if excess := excess_in(content):
        raise UnusableImage(Code.IMAGE_LOAD_ERROR, f"the image's file has {excess}; save it again without them")
    with _decoder_errors():
        image = Image.open(io.BytesIO(content), formats=FORMATS)
    with image:
        _check(image)
        yield image


def _check(image: Image.Image) -> None:
    width, height = image.size
    if width * height > MAX_PIXELS:
        raise _too_large(f"the image is {width}×{height}")
    if min(width, height) < MIN_SIDE:
        raise UnusableImage(
            Code.IMAGE_TOO_SMALL,
            f"the image is {width}×{height}; allowed: {MIN_SIDE} pixels a side and more",
            {"min_width": MIN_SIDE, "min_height": MIN_SIDE},
        )
    if image.format != "MPO" and getattr(image, "n_frames", 1) > 1:
        raise _unsupported("the image is animated; allowed: still images")


@contextmanager
def _decoder_errors() -> Iterator[None]:
    """Translate whatever a decoder raises into UnusableImage: on a malformed file, decoders may raise anything."""
    try:
        yield
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise _too_large("the image is too large") from error
    except Exception as error:
        raise UnusableImage(
            Code.IMAGE_LOAD_ERROR,
            f"the image cannot be read: the file is truncated, damaged or not an image; allowed: {', '.join(FORMATS)}",
        ) from error


def _too_large(what: str) -> UnusableImage:
    return UnusableImage(
        Code.IMAGE_TOO_LARGE, f"{what}; allowed: up to {MAX_PIXELS // 1_000_000} megapixels", {"max_pixels": MAX_PIXELS}
    )


def _unsupported(message: str) -> UnusableImage:
    return UnusableImage(Code.UNSUPPORTED_IMAGE_FORMAT, message, {"supported_formats": list(FORMATS)})


def _other_kind(content: bytes) -> str | None:
    if content[4:8] == b"ftyp":
        return _BRANDS.get(content[8:12])
    return next((kind for beginning, kind in _OTHER_SIGNATURES if content.startswith(beginning)), None)


def _turn_upright(image: Image.Image) -> None:
    # Broken EXIF is ignored.
    with suppress(Exception):
        ImageOps.exif_transpose(image, in_place=True)


def _reduced(image: Image.Image) -> Image.Image:
    """Return the image in eight bits and within the largest size: later steps then take little memory and time."""
    image = _eight_bits(image)
    image.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
    return image


def _eight_bits(image: Image.Image) -> Image.Image:
    """Convert the image to a mode that can be scaled: L, RGB or CMYK; LA or RGBA if it is transparent."""
    if image.mode in _SIXTEEN_BITS:
        # Pillow's own conversion would turn everything brighter than 255 of 65535 white.
        return image.point(lambda value: value / 256).convert("L")
    if image.mode in _SCALABLE and "transparency" not in image.info:
        return image
    plain, transparent = ("L", "LA") if image.mode in ("1", "L") else ("RGB", "RGBA")
    return image.convert(transparent if image.has_transparency_data else plain)


def _plain(image: Image.Image) -> Image.Image:
    """Convert the image to sRGB in mode RGB, on white."""
    has_alpha = image.mode in ("LA", "RGBA")
    colours = _in_srgb(image.convert(image.mode.removesuffix("A")) if has_alpha else image)
    if not has_alpha:
        return colours
    canvas = Image.new("RGB", image.size, "white")
    canvas.paste(colours, mask=image.getchannel("A"))
    return canvas


def _in_srgb(image: Image.Image) -> Image.Image:
    """Convert the colours by the image's ICC profile. An unusable profile is ignored, as browsers do."""
    if profile := image.info.get("icc_profile"):
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(without_elements(profile)))
            converted = ImageCms.profileToProfile(image, source, _SRGB, outputMode="RGB")
        except (ImageCms.PyCMSError, OSError):
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")
