"""Images in result files. A result file in storage only names them; their bytes are put in while it is downloaded.

So a file with a hundred thousand images in base64 takes a few megabytes of storage, and none of memory.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from farm.dialects.links import Links
from farm.domain.errors import NotFound
from farm.domain.job import Image

#: What stands for an image in a stored line. It is not base64, and JSON escapes quotes within texts: no text of a
#: caller can look like one.
_MARK = "image:"
_MARKED = re.compile(rb'"(b64_json":"|url":"data:[a-z/]+;base64,)' + _MARK.encode() + rb'([0-9a-z.-]+)"')


@dataclass(frozen=True, slots=True)
class NamingLinks(Links):
    """Links that name images in place of their bytes."""

    def encoded(self, key: str) -> str:
        return _MARK + key


def added_bytes(line: bytes, images: Iterable[Image]) -> int:
    """Return by how many bytes a line gets longer when its images are put in."""
    sizes = {image.key: image.bytes for image in images}
    keys = (match[2].decode() for match in _MARKED.finditer(line))
    return sum(-(-sizes[key] // 3) * 4 - len(_MARK + key) for key in keys)


def with_images(pieces: Iterable[bytes], read: Callable[[str], bytes]) -> Iterator[bytes]:
    """Yield the content of a stored result file, line by line, with the images that it names."""
    rest = b""
    for piece in pieces:
        *lines, rest = (rest + piece).split(b"\n")
        for line in lines:
            yield _filled(line, read) + b"\n"
    if rest:
        yield _filled(rest, read)


def _filled(line: bytes, read: Callable[[str], bytes]) -> bytes:
    return _MARKED.sub(lambda match: _value(match, read), line)


def _value(match: re.Match[bytes], read: Callable[[str], bytes]) -> bytes:
    """Return a field with its image in base64; null if the image has been deleted meanwhile."""
    head = match[1]
    try:
        content = read(match[2].decode())
    except NotFound:
        return b'"' + head.partition(b":")[0] + b":null"
    return b'"' + head + base64.b64encode(content) + b'"'
