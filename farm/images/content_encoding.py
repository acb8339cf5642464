"""Content-Encoding of downloaded images: hosts send gzip that was not asked for."""

from __future__ import annotations

import zlib

from farm.domain.error_codes import Code
from farm.images import decode
from farm.images.decode import UnusableImage

#: gzip and zlib, told apart by their first bytes.
_GZIP_OR_ZLIB = 32 + zlib.MAX_WBITS


def plain(content: bytes, encoding: str) -> bytes:
    """Return `content` without its Content-Encoding, up to MAX_BYTES. Raises UnusableImage."""
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return content
    if name not in ("gzip", "x-gzip", "deflate"):
        raise _unreadable(f"its host sent the Content-Encoding '{name[:40]}'; allowed: none, gzip or deflate")
    return _inflated(content)


def _inflated(content: bytes) -> bytes:
    stream = zlib.decompressobj(_GZIP_OR_ZLIB)
    try:
        result = stream.decompress(content, decode.MAX_BYTES + 1)
    except zlib.error as error:
        raise _unreadable("its host sent a Content-Encoding that does not fit the content") from error
    if len(result) > decode.MAX_BYTES:
        raise decode.file_too_large("the image is too large")
    if not stream.eof:
        raise _unreadable("its compressed content is incomplete")
    return result


def _unreadable(why: str) -> UnusableImage:
    return UnusableImage(Code.IMAGE_LOAD_ERROR, f"the image cannot be read: {why}")
