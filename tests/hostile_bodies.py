"""Hostile request bodies that are no images, in tables by how they are sent."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from api.http.body import IMAGES_BODY
from farm.domain.catalogue import MAX_BULK_LINE

#: The largest body of a call where a model takes images.
_LARGEST = IMAGES_BODY - 1024
_LINE = (
    b'{"custom_id": "%d", "method": "POST", "url": "/v1/images/generations", "body": {"model": "srpo", "prompt": "x"}}'
)


def _filled(before: bytes, unit: bytes, after: bytes, size: int = _LARGEST) -> bytes:
    """Return a body of this size: `unit` again and again, between `before` and `after`."""
    return before + unit * ((size - len(before) - len(after)) // len(unit)) + after


#: JSON, up to the largest body.
JSON: Mapping[str, Callable[[], bytes]] = {
    "lists in lists": lambda: b"[" * _LARGEST,
    "objects in objects": lambda: _filled(b"", b'{"a":', b"1"),
    "many fields": lambda: b"{" + b",".join(b'"f%d":1' % number for number in range(99_000)) + b"}",
    "one of many fields twice": lambda: b"{" + b",".join(b'"f%d":1' % number for number in range(99_000)) + b',"f0":1}',
    "many small objects": lambda: _filled(b'{"a":[', b'{"a":1},', b"1]}"),
    "one field again and again": lambda: b"{" + b",".join([b'"prompt":"x"'] * 99_000) + b"}",
    "many values": lambda: _filled(b'{"seed":[', b"1,", b"1]}"),
    "many wrong values": lambda: _filled(b'{"webhook_events":[', b'"x",', b'"x"]}', 399_000),
    "an integer of many digits": lambda: _filled(b'{"seed":', b"9", b"}"),
    "a fraction of many digits": lambda: _filled(b'{"guidance_scale":0.', b"9", b"}"),
    "an exponent of many digits": lambda: _filled(b'{"guidance_scale":1e', b"9", b"}"),
    "many long integers": lambda: b'{"seed":[' + b",".join([b"9" * 4300] * 15_000) + b"]}",
    "a long prompt": lambda: _filled(b'{"prompt":"', b"x", b'"}'),
    "a prompt of escapes": lambda: _filled(b'{"prompt":"', b"\\ud83d\\ude00", b'"}'),
    "a long name": lambda: _filled(b'{"', b"x", b'":1}'),
    "white space": lambda: _filled(b"", b" \n", b'{"prompt":"x"}'),
    "a string without an end": lambda: _filled(b'{"prompt":"', b"\\\\", b""),
    "zeros": lambda: bytes(_LARGEST),
    "no UTF-8": lambda: _filled(b'{"prompt":"', b"\xff", b'"}'),
}


def _part(name: bytes, content: bytes) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, content)


#: Forms with the boundary `x`, up to the largest body.
FORMS: Mapping[str, Callable[[], bytes]] = {
    "many parts": lambda: _filled(b"", _part(b"a", b"1"), b"--x--\r\n"),
    "a part of line ends": lambda: _part(b"image", b"\r\n" * (_LARGEST // 2)) + b"--x--\r\n",
    "a part of carriage returns": lambda: _part(b"image", b"\r" * _LARGEST) + b"--x--\r\n",
    "a part of half boundaries": lambda: _part(b"image", b"\r\n--" * (_LARGEST // 4)) + b"--x--\r\n",
    "a head without an end": lambda: b"--x\r\n" + b"A" * _LARGEST,
    "many heads": lambda: _filled(b"--x\r\n", b"A: b\r\n", b"\r\n"),
    "a long name": lambda: _part(b"a" * (1024 * 1000), b"1") + b"--x--\r\n",
    "a preamble": lambda: b"\r\n" * (_LARGEST // 2) + _part(b"a", b"1"),
    "an epilogue": lambda: _filled(_part(b"a", b"1") + b"--x--\r\n", b"\r\n--", b""),
    "a name in brackets": lambda: _part(b"a" + b"[a]" * 300_000, b"1") + b"--x--\r\n",
    "a text": lambda: _part(b"prompt", b"x" * (_LARGEST - 100)) + b"--x--\r\n",
}


def _lines(count: int) -> bytes:
    return b"\n".join(_LINE % number for number in range(count))


#: Files of batches.
BATCHES: Mapping[str, Callable[[], bytes]] = {
    "blank lines": lambda: b"\n" * 30_000_000,
    "lines of spaces": lambda: b" \n" * 30_000_000,
    "lines that are no JSON": lambda: b"{\n" * 15_000_000,
    "one long line": lambda: b"{" * 200_000_000,
    "lines of lists in lists": lambda: (b"[" * (MAX_BULK_LINE - 1) + b"\n") * 6,
    "lines of many values": lambda: (_filled(b'{"a":[', b"1,", b"1]}", 190_000) + b"\n") * 200,
    "one id": lambda: (_LINE % 1 + b"\n") * 100_000,
    "lines behind the last": lambda: _lines(150_000),
    "carriage returns": lambda: b"\r" * 100_000_000,
}

#: All tables, by how they are sent.
BODIES: Mapping[str, Mapping[str, Callable[[], bytes]]] = {"JSON": JSON, "form": FORMS, "batch": BATCHES}
