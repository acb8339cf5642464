"""Structure checks of JPEG and PNG files before they are decoded: a guard against decompression bombs. Pure.

Pillow keeps every segment of a JPEG and every chunk of a PNG, and libjpeg visits all pixels for every scan: a file of a
few megabytes can take hours to decode, and one of the largest size gigabytes of memory, for an image of a few pixels.
"""

from __future__ import annotations

import re

#: Most scans of a JPEG. Progressive ones have about ten.
MAX_SCANS = 50
#: Most segments of a JPEG or chunks of a PNG. A large file in libpng's chunks of 8 KiB has 6000.
MAX_FILE_PARTS = 100_000

#: A JPEG marker (ITU-T T.81, section B.1.1.2) that is followed by a length. Markers without one, padding and escaped
#: bytes are skipped, as libjpeg does.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def excess_in(content: bytes) -> str | None:
    """Name what the file has too much of to be decoded; None for a normal file and for other formats."""
    if content.startswith(_JPEG):
        return _excess_in_jpeg(content)
    if content.startswith(_PNG):
        return _excess_in_png(content)
    return None


def _excess_in_jpeg(content: bytes) -> str | None:
    parts = scans = 0
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
        at = match.end() + int.from_bytes(content[match.end() : match.end() + 2], "big")
    return None


def _excess_in_png(content: bytes) -> str | None:
    at = len(_PNG)
    for _ in range(MAX_FILE_PARTS):
        # Decoders ignore what follows the end.
        if at >= len(content) or content[at + 4 : at + 8] == b"IEND":
            return None
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return f"more than {MAX_FILE_PARTS} parts"
