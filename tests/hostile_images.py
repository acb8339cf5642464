"""Odd and hostile images, made by hand, in tables by what they have too much of."""

from __future__ import annotations

import io
import struct
import zlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from PIL import Image, ImageCms


def quarters(width: int = 64, height: int = 48) -> Image.Image:
    """Return an image in quarters: red, green, blue and white, from the upper left to the lower right."""
    image = Image.new("RGB", (width, height), "white")
    image.paste((255, 0, 0), (0, 0, width // 2, height // 2))
    image.paste((0, 255, 0), (width // 2, 0, width, height // 2))
    image.paste((0, 0, 255), (0, height // 2, width // 2, height))
    return image


def encoded(image: Image.Image, form: str = "PNG", **options: Any) -> bytes:
    """Return the image as a file of this form."""
    content = io.BytesIO()
    image.save(content, form, **options)
    return content.getvalue()


def chunk(name: bytes, content: bytes) -> bytes:
    """Return a chunk of a PNG (its specification, section 5.3)."""
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", zlib.crc32(name + content))


def png_of(width: int, height: int, *, rows: bytes, depth: int = 8, colour: int = 2, extra: bytes = b"") -> bytes:
    """Return a PNG made of its parts, whatever Pillow would write: each of its rows is `rows`, of 64 rows at most."""
    head = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    pixels = zlib.compress((b"\0" + rows) * min(height, 64))
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + extra + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def with_segments(marker: int, contents: Sequence[bytes]) -> bytes:
    """Return a JPEG with a segment of each of these contents."""
    plain = encoded(quarters(), "JPEG")
    segments = (struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for content in contents)
    return plain[:2] + b"".join(segments) + plain[2:]


def with_chunks(name: bytes, contents: Sequence[bytes]) -> bytes:
    """Return a PNG with a chunk of each of these contents."""
    plain = encoded(quarters(), "PNG")
    return plain[:33] + b"".join(chunk(name, content) for content in contents) + plain[33:]


def with_riff_chunks(name: bytes, contents: Sequence[bytes]) -> bytes:
    """Return a WebP with a chunk of each of these contents, in its extended format (RFC 9649, section 2.7)."""
    flags = {b"ICCP": 0x20, b"EXIF": 0x08, b"XMP ": 0x04}.get(name, 0)
    size = struct.pack("<I", 63)[:3] + struct.pack("<I", 47)[:3]
    pixels = encoded(quarters(), "WEBP")[12:]
    added = b"".join(_riff_chunk(name, content) for content in contents)
    parts = [added, pixels] if name == b"ICCP" else [pixels, added]
    body = b"WEBP" + _riff_chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size) + b"".join(parts)
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _riff_chunk(name: bytes, content: bytes) -> bytes:
    return name + struct.pack("<I", len(content)) + content + b"\0" * (len(content) % 2)


def exif_of_tags(size: int, tags: int, count: int) -> bytes:
    """Return Exif data of so many tags (TIFF 6.0, section 2), each with the same `count` bytes, that turns an image."""
    entries = [struct.pack("<HHLHH", 0x0112, 3, 1, 6, 0)]
    entries += [struct.pack("<HHLL", (0x8900 + number) & 0xFFFF, 1, count, 8) for number in range(tags)]
    head = b"II*\0" + struct.pack("<LH", 8, len(entries)) + b"".join(entries) + bytes(4)
    return head + bytes(max(0, size - len(head)))


def exif_of_values(kind: int, count: int) -> bytes:
    """Return Exif data whose orientation has `count` values of eight bytes at most."""
    return b"II*\0" + struct.pack("<LHHHLL", 8, 1, 0x0112, kind, count, 26) + bytes(4) + b"\6\0\0\0" * 2 * count


def in_exif_segments(exif: bytes) -> bytes:
    """Return a JPEG with this Exif data in segments of the largest size."""
    return with_segments(0xE1, [b"Exif\0\0" + exif[at : at + 65_000] for at in range(0, len(exif), 65_000)])


def profile_of_elements(count: int) -> bytes:
    """Return an ICC profile (ICC.1:2022, section 7) of one tag: so many elements (10.16), all the same one."""
    at = 16 + 8 * count
    unit = b"matf" + bytes(4) + struct.pack(">2H12f", 3, 3, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0, 0)
    elements = b"mpet" + bytes(4) + struct.pack(">HHI", 3, 3, count) + struct.pack(">2I", at, len(unit)) * count + unit
    tags = struct.pack(">I4sII", 1, b"D2B0", 144, len(elements))
    size = 128 + len(tags) + len(elements)
    head = struct.pack(">I4sI12s12x4s28x3I48x", size, b"lcms", 0x4300000, b"scnrRGB XYZ ", b"acsp", 63190, 65536, 54061)
    return head + tags + elements


_XMP, _PROFILE = b"http://ns.adobe.com/xap/1.0/\0", b"ICC_PROFILE\0\x01\x01"
_BLOCKS = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5000
_PACKED = zlib.compress(bytes(1_000_000))
_RATIONAL, _SHORT = 5, 3

#: Files with so much metadata that they are refused: 20,000 small pieces, or large ones, up to the largest file.
OVERFULL: Mapping[str, Callable[[], bytes]] = {
    "JPEG Exif": lambda: with_segments(0xE1, [b"Exif\0\0" + bytes(494)] * 20_000),
    "JPEG Exif, large": lambda: with_segments(0xE1, [b"Exif\0\0" + bytes(60_000)] * 300),
    "JPEG XMP": lambda: with_segments(0xE1, [_XMP + bytes(470)] * 20_000),
    "JPEG XMP, large": lambda: with_segments(0xE1, [_XMP + bytes(60_000)] * 300),
    "JPEG ICC": lambda: with_segments(0xE2, [_PROFILE + bytes(486)] * 20_000),
    "JPEG ICC, large": lambda: with_segments(0xE2, [_PROFILE + bytes(60_000)] * 300),
    "JPEG MPF": lambda: with_segments(0xE2, [b"MPF\0" + bytes(496)] * 20_000),
    "JPEG Photoshop": lambda: with_segments(0xED, [_BLOCKS] * 300),
    "JPEG comments": lambda: with_segments(0xFE, [bytes(500)] * 20_000),
    "JPEG comments, large": lambda: with_segments(0xFE, [bytes(60_000)] * 300),
    "PNG tEXt": lambda: with_chunks(b"tEXt", [b"a\0b"] * 90_000),
    "PNG tEXt, large": lambda: with_chunks(b"tEXt", [b"a\0" + bytes(18_000_000)]),
    "PNG zTXt": lambda: with_chunks(b"zTXt", [b"a\0\0" + _PACKED] * 20_000),
    "PNG iTXt": lambda: with_chunks(b"iTXt", [b"a\0\0\0\0\0b"] * 20_000),
    "PNG iCCP": lambda: with_chunks(b"iCCP", [b"a\0\0" + _PACKED] * 900),
    "PNG unknown, large": lambda: with_chunks(b"prVt", [bytes(18_000_000)]),
    "PNG Exif of many tags": lambda: with_chunks(b"eXIf", [exif_of_tags(18_000_000, 65_000, 250)]),
    "PNG Exif of shorts": lambda: with_chunks(b"eXIf", [exif_of_values(_SHORT, 2_200_000)]),
    "PNG Exif of rationals": lambda: with_chunks(b"eXIf", [exif_of_values(_RATIONAL, 6_000_000)]),
    "PNG Exif of 2 MB": lambda: with_chunks(b"eXIf", [exif_of_values(_RATIONAL, 250_000)]),
    "PNG Exif as text": lambda: with_chunks(b"tEXt", [b"Raw profile type exif\0\nexif\n    8\n" + b"00\n" * 5_000_000]),
    "WebP unknown": lambda: with_riff_chunks(b"junk", [b""] * 2_000_000),
    "WebP XMP": lambda: with_riff_chunks(b"XMP ", [bytes(500)] * 20_000),
    "WebP XMP, large": lambda: with_riff_chunks(b"XMP ", [b"tiff:Orientation>" * 1_000_000]),
    "WebP ICC, large": lambda: with_riff_chunks(b"ICCP", [bytes(18_000_000)]),
    "WebP Exif of rationals": lambda: with_riff_chunks(b"EXIF", [b"Exif\0\0" + exif_of_values(_RATIONAL, 2_200_000)]),
}
#: Files with as much metadata as is accepted, of the costliest kinds.
FULL: Mapping[str, Callable[[], bytes]] = {
    "JPEG Exif of many tags": lambda: in_exif_segments(exif_of_tags(1_000_000, 65_000, 15)),
    "JPEG Exif of rationals": lambda: in_exif_segments(exif_of_values(_RATIONAL, 120_000)),
    "JPEG XMP": lambda: with_segments(0xE1, [b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)] * 250),
    "JPEG ICC": lambda: with_segments(
        0xE2, [b"ICC_PROFILE\0" + bytes([n + 1, 255]) + bytes(65_000) for n in range(255)]
    ),
    "JPEG MPF": lambda: with_segments(0xE2, [b"MPF\0" + exif_of_tags(60_000, 4000, 12)] * 250),
    "JPEG Photoshop": lambda: with_segments(0xED, [_BLOCKS] * 16),
    "JPEG comments": lambda: with_segments(0xFE, [bytes(16_000)] * 990),
    "PNG Exif of rationals": lambda: with_chunks(b"eXIf", [exif_of_values(_RATIONAL, 120_000)]),
    "PNG Exif as text": lambda: with_chunks(b"tEXt", [b"Raw profile type exif\0\nexif\n    8\n" + b"00\n" * 300_000]),
    "PNG tEXt": lambda: with_chunks(b"tEXt", [b"a\0" + bytes(16_000_000)]),
    "PNG zTXt": lambda: with_chunks(b"zTXt", [b"a\0\0" + _PACKED] * 60),
    "PNG iCCP": lambda: with_chunks(b"iCCP", [b"a\0\0" + _PACKED] * 16),
    "PNG profile of elements": lambda: with_chunks(b"iCCP", [b"a\0\0" + zlib.compress(profile_of_elements(100_000))]),
    "JPEG profile of elements": lambda: encoded(quarters(), "JPEG", icc_profile=profile_of_elements(1_000_000)),
    "PNG of empty pixel chunks": lambda: with_chunks(b"IDAT", [b""] * 90_000),
    "WebP XMP": lambda: with_riff_chunks(b"XMP ", [b"tiff:Orientation>" * 900_000]),
    "WebP Exif of rationals": lambda: with_riff_chunks(b"EXIF", [b"Exif\0\0" + exif_of_values(_RATIONAL, 120_000)]),
}
#: Files of metadata as cameras and editors write it.
USUAL: Mapping[str, Callable[[], bytes]] = {
    "JPEG Exif": lambda: with_segments(0xE1, [b"Exif\0\0" + bytes(60_000)] * 3),
    "JPEG extended XMP": lambda: with_segments(0xE1, [b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000)] * 200),
    "JPEG ICC": lambda: with_segments(0xE2, [_PROFILE + bytes(60_000)] * 20),
    "PNG texts": lambda: with_chunks(b"tEXt", [b"a\0b"] * 100),
    "PNG Exif with a preview": lambda: with_chunks(b"eXIf", [exif_of_tags(800_000, 100, 4)]),
    "WebP with a film behind it": lambda: encoded(quarters(), "WEBP") + b"mvhd" + bytes(30_000_000),
}


def huge_webp() -> bytes:
    """Return an image whose header says 16383×16383: WebP's largest, 268 megapixels (RFC 9649, section 3.4)."""
    content = bytearray(encoded(quarters(20, 20), "WEBP", lossless=True))
    at = content.index(b"VP8L") + 9
    (bits,) = struct.unpack("<I", content[at : at + 4])
    content[at : at + 4] = struct.pack("<I", bits & ~0xFFFFFFF | 16382 | 16382 << 14)
    return bytes(content)


def huge_jpeg() -> bytes:
    """Return an image whose frame header says 65500×65500."""
    content = bytearray(encoded(quarters(20, 20), "JPEG"))
    at = content.index(b"\xff\xc0") + 5
    content[at : at + 4] = struct.pack(">HH", 65500, 65500)
    return bytes(content)


def scanned(image: Image.Image, times: int) -> bytes:
    """Return a progressive JPEG whose last scan is repeated so many times."""
    content = encoded(image, "JPEG", progressive=True)
    last = content[content.rindex(b"\xff\xda") : -2]
    return content[:-2] + last * times + content[-2:]


#: Files whose headers say more pixels than are accepted.
HUGE: Mapping[str, Callable[[], bytes]] = {
    "PNG": lambda: png_of(60_000, 60_000, rows=bytes(60_000)),
    "WebP": huge_webp,
    "JPEG": huge_jpeg,
}
#: Small files of 64 megapixels.
VAST: Mapping[str, Callable[[], bytes]] = {
    "JPEG of many scans": lambda: scanned(Image.new("RGB", (8000, 8000)), 40),
    "JPEG in CMYK": lambda: encoded(Image.new("CMYK", (8000, 8000)), "JPEG", progressive=True),
    "PNG": lambda: encoded(Image.new("RGBA", (8000, 8000)), "PNG", compress_level=1),
    "PNG, very wide": lambda: encoded(Image.new("RGBA", (4_000_000, 16)), "PNG", compress_level=1),
    "WebP": lambda: encoded(Image.new("RGBA", (8000, 8000)), "WEBP", lossless=True, quality=0, method=0),
}


def _profiled(width: int, height: int) -> bytes:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return encoded(Image.new("RGBA", (width, height)), "PNG", compress_level=1, icc_profile=profile)


#: An image of 16 megapixels, with transparency and a colour profile.
LARGE: Mapping[str, Callable[[], bytes]] = {"PNG with a profile": lambda: _profiled(4000, 4000)}
#: All tables of files, by what they are.
HOSTILE: Mapping[str, Mapping[str, Callable[[], bytes]]] = {
    "overfull": OVERFULL,
    "full": FULL,
    "huge": HUGE,
    "large": LARGE,
    "vast": VAST,
}
