"""Odd and hostile images, made by hand."""

from __future__ import annotations

import io
import struct
import zlib
from typing import Any

from PIL import Image


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
