"""The lines of a bulk's file, read from storage in ranges: a file of any length takes as much memory as one line."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass

from farm.domain.bulk import BEGINNING, Progress
from farm.domain.catalogue import MAX_BULK_LINE, MAX_BULK_LINES
from farm.storage.storage import Storage

#: Most lines of a file, blank ones included.
MAX_FILE_LINES = 2 * MAX_BULK_LINES
#: Bytes that are read at a time.
RANGE_BYTES = 1024 * 1024
_BYTE_ORDER_MARK = b"\xef\xbb\xbf"


@dataclass(frozen=True, slots=True)
class FileLine:
    """A line; `end` is where the next one begins. `content` is None if it is too long."""

    end: Progress
    content: bytes | None

    @property
    def number(self) -> int:
        """The number of the line, counted from 1; blank ones count."""
        return self.end.line


class LineReader:
    """Reads the lines of one file. Raises StorageError, and NotFound if it is gone."""

    def __init__(self, storage: Storage, key: str, size: int) -> None:
        self._storage = storage
        self._key = key
        self._size = size

    def lines(self, after: Progress = BEGINNING) -> Iterator[FileLine]:
        """Yield the lines behind `after`; of a file of too many, blank ones, too, so that its check comes to an end."""
        number, offset = after.line, after.offset
        for content, length in self._split(offset):
            number, offset = number + 1, offset + length
            plain = content if content is None else _plain(content, number)
            if plain is None or plain or number > MAX_FILE_LINES:
                yield FileLine(Progress(offset, number), plain)

    def _split(self, offset: int) -> Iterator[tuple[bytes | None, int]]:
        """Yield each line, None for one that is too long, and the bytes that it takes in the file."""
        rest, length = b"", 0
        for piece in self._pieces(offset):
            *ends, last = piece.split(b"\n")
            for end in ends:
                length += len(end) + 1
                yield (rest + end if length - 1 <= MAX_BULK_LINE else None), length
                rest, length = b"", 0
            length += len(last)
            rest = rest + last if length <= MAX_BULK_LINE else b""
        if length:
            yield (rest if length <= MAX_BULK_LINE else None), length

    def _pieces(self, offset: int) -> Iterator[bytes]:
        while offset < self._size:
            stop = min(offset + RANGE_BYTES, self._size)
            with closing(self._storage.open(self._key, offset, stop)) as chunks:
                yield b"".join(chunks)
            offset = stop


def _plain(content: bytes, number: int) -> bytes:
    """Return a line without white space around it and without the mark with which editors begin a file."""
    return (content.removeprefix(_BYTE_ORDER_MARK) if number == 1 else content).strip()
