"""What files of images are made of, looked at before a decoder is let loose on them. Pure.

Pillow keeps every part of a JPEG and of a PNG, and libjpeg goes through all pixels for every scan: a file of a few
megabytes can take hours, and one of the largest size gigabytes, for an image of a few pixels.
"""

from __future__ import annotations

import re

#: Most scans of a JPEG. Progressive ones have about ten.
MOST_SCANS = 50
#: Most parts of a file: segments of a JPEG, chunks of a PNG. libpng's own chunks of 8 KiB are 6000 in a large file.
MOST_PARTS = 100_000

#: A marker of JPEG (ITU-T T.81, section B.1.1.2) behind which a length stands. Those without one, padding and escaped
#: bytes are passed over, as libjpeg does.
_MARKER = re.compile(rb"\xff([^\x00\x01\xd0-\xd8\xff])")
_START_OF_SCAN, _END_OF_IMAGE = 0xDA, 0xD9
_JPEG, _PNG = b"\xff\xd8", b"\x89PNG\r\n\x1a\n"


def excess_in(content: bytes) -> str | None:
    """What the file has too much of to be read; None where it is of another kind, or as encoders write it."""
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
        # Before the first scan, what lies between two segments is gone through byte by byte.
        parts += 1 if scans else 1 + match.start() - at
        scans += marker == _START_OF_SCAN
        if parts > MOST_PARTS or scans > MOST_SCANS:
            return f"more than {MOST_SCANS} scans" if scans > MOST_SCANS else f"more than {MOST_PARTS} parts"
        at = match.end() + int.from_bytes(content[match.end() : match.end() + 2], "big")
    return None


def _excess_in_png(content: bytes) -> str | None:
    at = len(_PNG)
    for _ in range(MOST_PARTS):
        # What stands behind the end is nobody's.
        if at >= len(content) or content[at + 4 : at + 8] == b"IEND":
            return None
        at += 12 + int.from_bytes(content[at : at + 4], "big")
    return f"more than {MOST_PARTS} parts"
