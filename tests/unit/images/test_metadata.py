"""Metadata that would cost a decoder more than its bytes: every kind in every format is refused in milliseconds."""

from __future__ import annotations

import io
import struct
import time
import zlib
from collections.abc import Callable

import pytest
from PIL import Image

from farm.images.decode import UnusableImage, read_header

#: CPU time that a hostile file may take, in seconds.
CPU_SECONDS = 0.5


def encoded(form: str) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (64, 64), "teal").save(file, form)
    return file.getvalue()


def jpeg(marker: int, content: bytes, count: int) -> bytes:
    """Return a JPEG with so many segments of metadata."""
    segment = struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content
    plain = encoded("JPEG")
    return plain[:2] + segment * count + plain[2:]


def png(kind: bytes, content: bytes, count: int) -> bytes:
    chunk = struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))
    plain = encoded("PNG")
    return plain[:33] + chunk * count + plain[33:]


def webp(kind: bytes, content: bytes, count: int) -> bytes:
    chunk = kind + struct.pack("<I", len(content)) + content
    body = encoded("WEBP")[8:] + chunk * count
    return b"RIFF" + struct.pack("<I", len(body)) + body


BLOCKS = b"Photoshop 3.0\0" + b"8BIM\x04\x04\0\0\0\0\0\0" * 5000
#: What makes the file, its content, and how often: 20,000 small pieces, or as many large ones as a file may have.
HOSTILE: dict[str, Callable[[], bytes]] = {
    "JPEG Exif": lambda: jpeg(0xE1, b"Exif\0\0" + bytes(494), 20_000),
    "JPEG Exif, large": lambda: jpeg(0xE1, b"Exif\0\0" + bytes(60_000), 800),
    "JPEG XMP": lambda: jpeg(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + bytes(470), 20_000),
    "JPEG ICC": lambda: jpeg(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(486), 20_000),
    "JPEG MPF": lambda: jpeg(0xE2, b"MPF\0" + bytes(496), 20_000),
    "JPEG Photoshop": lambda: jpeg(0xED, BLOCKS, 800),
    "JPEG comments": lambda: jpeg(0xFE, bytes(500), 20_000),
    "PNG tEXt": lambda: png(b"tEXt", b"a\0b", 90_000),
    "PNG zTXt": lambda: png(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000_000)), 20_000),
    "PNG iTXt": lambda: png(b"iTXt", b"a\0\0\0\0\0b", 20_000),
    "PNG iCCP": lambda: png(b"iCCP", b"a\0\0" + zlib.compress(bytes(1_000_000)), 20_000),
    "WebP unknown": lambda: webp(b"junk", b"", 2_000_000),
    "WebP XMP": lambda: webp(b"XMP ", bytes(500), 20_000),
}


@pytest.mark.parametrize("make", HOSTILE.values(), ids=HOSTILE.keys())
def test_a_file_of_metadata_is_refused_before_it_costs_anything(make: Callable[[], bytes]) -> None:
    content = make()
    began = time.process_time()

    with pytest.raises(UnusableImage, match="too many pieces of metadata"):
        read_header(content)

    assert time.process_time() - began < CPU_SECONDS


USUAL: dict[str, Callable[[], bytes]] = {
    "JPEG Exif": lambda: jpeg(0xE1, b"Exif\0\0" + bytes(60_000), 3),
    "JPEG extended XMP": lambda: jpeg(0xE1, b"http://ns.adobe.com/xmp/extension/\0" + bytes(60_000), 200),
    "JPEG ICC": lambda: jpeg(0xE2, b"ICC_PROFILE\0\x01\x01" + bytes(60_000), 20),
    "PNG texts": lambda: png(b"tEXt", b"a\0b", 100),
}


@pytest.mark.parametrize("make", USUAL.values(), ids=USUAL.keys())
def test_the_metadata_of_cameras_and_editors_is_fine(make: Callable[[], bytes]) -> None:
    assert (read_header(make()).width, read_header(make()).height) == (64, 64)
