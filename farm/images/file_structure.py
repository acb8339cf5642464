"""Structure checks of JPEG, PNG and WebP files before they are decoded: a guard against decompression bombs. Pure.

Pillow keeps every segment of a JPEG and every chunk of a PNG, and libjpeg visits all pixels for every scan: a file of a
few megabytes can take hours to decode, and one of the largest size gigabytes of memory, for an image of a few pixels.
Some metadata Pillow parses: a PNG's Exif of 49 MB costs 17 seconds and a gigabyte, and holds up all other threads.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

#: Most scans of a JPEG. Progressive ones have about ten.
MAX_SCANS = 50
#: Most segments of a JPEG or chunks of a PNG. A large file in libpng's chunks of 8 KiB has 6000.
MAX_FILE_PARTS = 100_000
#: Most parts that are not pixels: segments of applications and comments in a JPEG, chunks but IDAT in a PNG, and all
#: chunks of a still WebP. A depth map of 10 MB in extended XMP has 160 segments.
MAX_METADATA_PARTS = 1000
#: Most bytes of such parts. Some depth maps have 10 MB.
MAX_METADATA_BYTES = 16 * 1024 * 1024
#: Most parts, and most of their bytes, that Pillow parses: Exif, Photoshop's blocks, packed colour profiles. Encoders
#: write one part, or a few of 64 KiB.
MAX_PARSED_PARTS = 16
MAX_PARSED_BYTES = 1024 * 1024

#: A JPEG marker (ITU-T T.81, section B.1.1.2) that is followed by a length. Markers without one, padding and escaped
#: bytes are skipped, as libjpeg does.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_APP0, _APP1, _APP13, _APP15, _COMMENT = 0xE0, 0xE1, 0xED, 0xEF, 0xFE
_EXIF = b"Exif\0\0"
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"
#: The chunks of a PNG that Pillow parses, and the beginning of a text in which ImageMagick writes Exif.
_PARSED_IN_PNG, _EXIF_AS_TEXT = (b"eXIf", b"iCCP"), b"Raw profile type exif"
#: The chunks of a WebP that are pixels, and the one that Pillow parses.
_PIXELS_IN_WEBP, _PARSED_IN_WEBP = (b"VP8 ", b"VP8L", b"ALPH", b"ANMF"), b"EXIF"


def excess_in(content: bytes) -> str | None:
    """Name what the file has too much of to be decoded; None for a normal file and for other formats."""
    if content.startswith(_JPEG):
        return _excess_in_jpeg(content)
    if content.startswith(_PNG):
        return _excess_in_png(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _excess_in_webp(content)
    return None


@dataclass(slots=True)
class _Metadata:
    """The metadata of a file so far, and the part of it that Pillow parses."""

    parts: int = 0
    size: int = 0
    parsed_parts: int = 0
    parsed_size: int = 0

    def add(self, size: int, *, is_parsed: bool) -> str | None:
        """Count a part of `size` bytes. Returns what there is too much of now."""
        self.parts += 1
        self.size += size
        if is_parsed:
            self.parsed_parts += 1
            self.parsed_size += size
        if self.parts > MAX_METADATA_PARTS or self.parsed_parts > MAX_PARSED_PARTS:
            return "too many pieces of metadata"
        if self.size > MAX_METADATA_BYTES:
            return f"more than {MAX_METADATA_BYTES} bytes of metadata"
        if self.parsed_size > MAX_PARSED_BYTES:
            return f"more than {MAX_PARSED_BYTES} bytes of Exif data or the like"
        return None


def _excess_in_jpeg(content: bytes) -> str | None:
    metadata = _Metadata()
    parts = scans = 0
    at = len(_JPEG)
    while match := _MARKER.search(content, at):
        marker, start = match[1][0], match.end()
        if marker == _END_OF_IMAGE:
            return None
        # Before the first scan, libjpeg reads what lies between two segments byte by byte.
        parts += 1 if scans else 1 + match.start() - at
        scans += marker == _START_OF_SCAN
        if parts > MAX_FILE_PARTS or scans > MAX_SCANS:
            return f"more than {MAX_SCANS} scans" if scans > MAX_SCANS else f"more than {MAX_FILE_PARTS} parts"
        at = start + int.from_bytes(content[start : start + 2], "big")
        if _APP0 <= marker <= _APP15 or marker == _COMMENT:
            is_parsed = marker == _APP13 or (marker == _APP1 and content.startswith(_EXIF, start + 2))
            if excess := metadata.add(at - start, is_parsed=is_parsed):
                return excess
    return None


def _excess_in_png(content: bytes) -> str | None:
    metadata = _Metadata()
    at = len(_PNG)
    for _ in range(MAX_FILE_PARTS):
        kind, size = content[at + 4 : at + 8], int.from_bytes(content[at : at + 4], "big")
        # Decoders ignore what follows the end.
        if at >= len(content) or kind == b"IEND":
            return None
        if kind != b"IDAT":
            is_parsed = kind in _PARSED_IN_PNG or content.startswith(_EXIF_AS_TEXT, at + 8)
            if excess := metadata.add(size, is_parsed=is_parsed):
                return excess
        at += 12 + size
    return f"more than {MAX_FILE_PARTS} parts"


def _excess_in_webp(content: bytes) -> str | None:
    metadata = _Metadata()
    at, end = 12, min(len(content), 8 + int.from_bytes(content[4:8], "little"))
    while at < end:
        kind, size = content[at : at + 4], int.from_bytes(content[at + 4 : at + 8], "little")
        counted = 0 if kind in _PIXELS_IN_WEBP else size
        if excess := metadata.add(counted, is_parsed=kind == _PARSED_IN_WEBP):
            return excess
        at += 8 + size + size % 2
    return None
