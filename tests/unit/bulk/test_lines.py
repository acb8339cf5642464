"""Lines of a bulk's file, read in ranges, and the images that are put into result files."""

from __future__ import annotations

import base64
import io
import json
import tracemalloc
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.bulk import lines as bulk_lines
from farm.bulk.lines import FileLine, LineReader
from farm.bulk.result_images import NamingLinks, added_bytes, with_images
from farm.bulk.validation import MAX_PROBLEMS, FileCheck
from farm.domain.bulk import BEGINNING, Progress
from farm.domain.errors import NotFound
from farm.domain.job import Image
from farm.storage.local import LocalStorage
from farm.storage.storage import Chunks
from tests.unit.dialects.samples import BASE

KEY = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11-7-0-0123456789abcdef.png"


class Memory(LocalStorage):
    """One file in memory."""

    def __init__(self, content: bytes) -> None:
        self._content = content

    def open(self, key: str, start: int, stop: int) -> Chunks:
        return Chunks(io.BytesIO(self._content[start:stop]), stop - start)


def reader(content: bytes) -> LineReader:
    return LineReader(Memory(content), "key", len(content))


@given(
    lines=st.lists(st.binary(max_size=30).filter(lambda line: b"\n" not in line)),
    range_bytes=st.integers(1, 20),
    ends=st.booleans(),
)
def test_lines_are_the_same_whatever_the_ranges(lines: list[bytes], range_bytes: int, ends: bool) -> None:
    content = b"\n".join(lines) + (b"\n" if ends else b"")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bulk_lines, "RANGE_BYTES", range_bytes)
        found = list(reader(content).lines())

        plain = content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
        expected = [(number, line.strip()) for number, line in enumerate(plain, 1) if line.strip()]
        assert [(line.number, line.content) for line in found] == expected
        for line in (FileLine(BEGINNING, b""), *found):
            following = [item for item in found if item.number > line.number]
            assert list(reader(content).lines(line.end)) == following


def test_a_line_that_is_too_long_is_skipped_without_being_held_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bulk_lines, "MAX_BULK_LINE", 10)
    monkeypatch.setattr(bulk_lines, "RANGE_BYTES", 4)
    content = b"a" * 10 + b"\n" + b"b" * 11 + b"\nc\n" + b"d" * 100

    assert [line.content for line in reader(content).lines()] == [b"a" * 10, None, b"c", None]


def test_a_large_file_takes_the_memory_of_a_range() -> None:
    content = (b"x" * 999 + b"\n") * 20_000
    tracemalloc.start()
    try:
        assert sum(1 for _ in reader(content).lines()) == 20_000
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()

    assert peak < 8 * bulk_lines.RANGE_BYTES


def test_a_byte_order_mark_and_carriage_returns_are_no_part_of_lines() -> None:
    found = list(reader(b"\xef\xbb\xbf{}\r\n\r\n[]\r\n").lines())

    assert [(line.number, line.content) for line in found] == [(1, b"{}"), (3, b"[]")]


def test_a_check_stops_on_request_and_after_many_problems() -> None:
    def endless() -> Iterator[FileLine]:
        number = 0
        while True:
            number += 1
            yield FileLine(Progress(number, number), b"no json")

    checked = FileCheck("/v1/images/edits").check(endless(), stop=lambda: False)
    assert checked
    assert len(checked.problems) == MAX_PROBLEMS + 1
    assert checked.problems[-1].code == "too_many_errors"
    assert FileCheck("/v1/images/edits").check(endless(), stop=lambda: True) is None


def test_images_are_put_in_where_a_line_names_them() -> None:
    links = NamingLinks(BASE, file=str, content=lambda _: b"")
    image = Image(KEY, 256, 256, "image/png", 5)
    line = {"data": [{"url": links.data(image), "b64_json": links.encoded(KEY), "prompt": f'"b64_json":"image:{KEY}"'}]}
    stored = json.dumps(line, separators=(",", ":")).encode()

    (filled,) = with_images([stored[:30], stored[30:]], lambda _: b"pixel")

    in_base64 = base64.b64encode(b"pixel").decode()
    assert json.loads(filled)["data"] == [
        {"url": f"data:image/png;base64,{in_base64}", "b64_json": in_base64, "prompt": f'"b64_json":"image:{KEY}"'}
    ]
    assert len(filled) == len(stored) + added_bytes(stored, [image])


def test_an_image_that_is_gone_is_null() -> None:
    def gone(key: str) -> bytes:
        raise NotFound(key)

    stored = f'{{"b64_json":"image:{KEY}"}}\n{{"url":"data:image/png;base64,image:{KEY}"}}'.encode()

    assert [json.loads(line) for line in with_images([stored], gone)] == [{"b64_json": None}, {"url": None}]
