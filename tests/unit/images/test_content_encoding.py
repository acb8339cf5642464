"""Content-Encodings of hosts: undone within bounds, or refused by name."""

from __future__ import annotations

import gzip
import tracemalloc
import zlib

import pytest

from farm.images import decode
from farm.images.content_encoding import plain
from farm.images.decode import UnusableImage
from tests.images import sample_image

IMAGE = sample_image()


@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (IMAGE, ""),
        (IMAGE, " Identity "),
        (gzip.compress(IMAGE, mtime=0), "gzip"),
        (gzip.compress(IMAGE, mtime=0), "X-GZIP"),
        (zlib.compress(IMAGE), "deflate"),
    ],
)
def test_an_encoding_is_undone(content: bytes, encoding: str) -> None:
    assert plain(content, encoding) == IMAGE


@pytest.mark.parametrize(
    ("content", "encoding", "message"),
    [
        (IMAGE, "br", "'br'"),
        (IMAGE, "zstd", "'zstd'"),
        (gzip.compress(gzip.compress(IMAGE, mtime=0), mtime=0), "gzip, gzip", "'gzip, gzip'"),
        (IMAGE, "gzip", "does not fit the content"),
        (gzip.compress(IMAGE, mtime=0)[:-9], "gzip", "incomplete"),
        (b"", "gzip", "incomplete"),
    ],
)
def test_an_unsupported_content_encoding_is_named(content: bytes, encoding: str, message: str) -> None:
    with pytest.raises(UnusableImage, match=message):
        plain(content, encoding)


def test_a_bomb_is_not_unpacked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode, "MAX_BYTES", 100_000)
    bomb = gzip.compress(bytes(100_000_000), 9)

    tracemalloc.start()
    try:
        with pytest.raises(UnusableImage, match="too large"):
            plain(bomb, "gzip")
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()
