"""Bodies that are no JSON object: bad input, whatever they are."""

from __future__ import annotations

import pytest

from farm.dialects.fields import decode
from farm.errors import InvalidRequest

DEPTH = 200_000


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b" ",
        b"prompt",
        b'{"prompt": "a fox"',
        b'{"prompt": "a fox"} {"prompt": "another"}',
        b'{"prompt": "a fox",}',
        b"{'prompt': 'a fox'}",
        b"prompt=a+fox",
        b"\x00",
        b"\xff\xfe\xfd",
        b'{"prompt": "\xff"}',
        b'{"seed": 1' + b"0" * 5000 + b"}",
        b'{"a":' * DEPTH + b"1" + b"}" * DEPTH,
        b'{"prompt": ' + b"[" * DEPTH + b"]" * DEPTH + b"}",
        b"[" * DEPTH,
    ],
    ids=lambda body: repr(body[:24]),
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="not JSON") as caught:
        decode(body)

    assert [problem.kind for problem in caught.value.problems] == ["json_invalid"]


@pytest.mark.parametrize("body", [b"[]", b"null", b'"a fox"', b"1", b"true", b'[{"prompt": "a fox"}]'])
def test_what_is_no_object_is_refused(body: bytes) -> None:
    with pytest.raises(InvalidRequest, match="must be a JSON object"):
        decode(body)


def test_an_object_is_read() -> None:
    assert decode('{"prompt": "füchschen \U0001f98a", "n": 1.0}'.encode()) == {"prompt": "füchschen 🦊", "n": 1.0}
