"""Structure checks of JPEG, PNG and WebP files before they are decoded: a guard against decompression bombs. Pure.

Pillow keeps every segment of a JPEG and every chunk of a PNG, and libjpeg visits all pixels for every scan: a file of a
few megabytes can take hours to decode, and one of the largest size gigabytes of memory, for an image of a few pixels.
Pillow joins the Exif segments of a JPEG one by one, and parses Photoshop's block by block: both cost seconds.
"""

from __future__ import annotations

import re

#: Most scans of a JPEG. Progressive ones have about ten.
MAX_SCANS = 50
#: Most segments of a JPEG or chunks of a PNG. A large file in libpng's chunks of 8 KiB has 6000.
MAX_FILE_PARTS = 100_000
#: Most parts that are not pixels: segments of applications and comments in a JPEG, chunks but IDAT in a PNG, and all
#: chunks of a still WebP. A depth map of 10 MB in extended XMP has 160 segments.
MAX_METADATA_PARTS = 1000
#: Most Exif segments of a JPEG, and most of Photoshop's. Encoders write one, or a few of 64 KiB.
MAX_EXIF_PARTS = 16

#: A JPEG marker (ITU-T T.81, section B.1.1.2) that is followed by a length. Markers without one, padding and escaped
#: bytes are skipped, as libjpeg does.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_APP0, _APP1, _APP13, _APP15, _COMMENT = 0xE0, 0xE1, 0xED, 0xEF, 0xFE
_EXIF = b"Exif\0\0"
_TOO_MUCH_METADATA = "too many pieces of metadata"
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def excess_in(content: bytes) -> str | None:
    """Name what the file has too much of to be decoded; None for a normal file and for other formats."""
    if content.startswith(_JPEG):
        return _excess_in_jpeg(content)
    if content.startswith(_PNG):
        return _excess_in_png(content)
    if content.startswith(b"RIFF") and content[8:12] == b"WEBP":
        return _excess_in_webp(content)
    return None


def _excess_in_jpeg(content: bytes) -> str | None:
    parts = scans = metadata = joined = 0
    at = len(_JPEG)
    while match := _MARKER.search(content, at):
        marker = match[1][0]
        if marker == _END_OF_IMAGE:
            return None
        # Before the first scan, libjpeg reads what lies between two segments byte by byte.
        parts += 1 if scans else 1 + match.start() - at
        scans += marker == _START_OF_SCAN
        if parts > MAX_FILE_PARTS or scans > MAX_SCANS:
            return f"more than {MAX_SCANS} scans" if scans > MAX_SCANS else f"more than {MAX_FILE_PARTS} parts"
        metadata += _APP0 <= marker <= _APP15 or marker == _COMMENT
        joined += marker == _APP13 or (marker == _APP1 and content.startswith(_EXIF, match.end() + 2))
        if metadata > MAX_METADATA_PARTS or joined > MAX_EXIF_PARTS:
            return _TOO_MUCH_METADATA
        at = match.end() + int.from_bytes(content[match.end() : match.end() + 2], "big")
    return None


def _excess_in_png(content: bytes) -> str | None:
    at = len(_PNG)
    metadata = 0
    for _ in range(MAX_FILE_PARTS):
        kind = content[at + 4 : at + 8]
        # Decoders ignore what follows the end.
        if at >= len(content) or kind == b"IEND":
            return None
        metadata += kind != b"IDAT"
        if metadata > MAX_METADATA_PARTS:
            return _TOO_MUCH_METADATA
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return f"more than {MAX_FILE_PARTS} parts"


def _excess_in_webp(content: bytes) -> str | None:
    at = 12
    for _ in range(MAX_METADATA_PARTS):
        if at >= len(content):
            return None
        size = int.from_bytes(content[at + 4 : at + 8], "little")
        at += 8 + size + size % 2
    return _TOO_MUCH_METADATA
