"""JSON of webhook bodies: JavaScript, which parses and writes them again, gets the same bytes."""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from farm.webhooks.json_encoding import encoded, number
from tests.javascript import NODE

#: Reads a JSON array of texts, and writes each of them as JavaScript would write what it has read.
_PROGRAM = """
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map((text) => JSON.stringify(JSON.parse(text)))));
"""

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(2**53), 2**53)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(st.characters(exclude_categories=["Cs"])),
    # JavaScript moves names that are numbers to the front.
    lambda items: st.lists(items) | st.dictionaries(st.from_regex(r"[a-z_]{1,8}", fullmatch=True), items),
    max_leaves=10,
)


def written_by_javascript(texts: list[str]) -> list[str]:
    done = subprocess.run(
        [NODE, "-e", _PROGRAM], input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60
    )
    result: list[str] = json.loads(done.stdout)
    return result


@given(st.lists(VALUES, min_size=50, max_size=200))
@settings(max_examples=5, deadline=None, phases=[Phase.generate], suppress_health_check=list(HealthCheck))
def test_javascript_writes_the_same(values: list[Any]) -> None:
    texts = [encoded(value).decode() for value in values]

    assert [json.loads(text, parse_int=float) for text in texts] == values
    assert written_by_javascript(texts) == texts


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (28.0, "28"),
        (-0.0, "0"),
        (0.000001, "0.000001"),
        (1e-7, "1e-7"),
        (0.1 + 0.2, "0.30000000000000004"),
        (1e16, "10000000000000000"),
        (1.2345678901234567e20, "123456789012345670000"),
        (1e21, "1e+21"),
        (5e-324, "5e-324"),
        (1.7976931348623157e308, "1.7976931348623157e+308"),
    ],
)
def test_a_number_is_written_as_javascript_does(value: float, text: str) -> None:
    assert number(value) == text
    assert written_by_javascript([text]) == [text]


def test_a_lone_surrogate_becomes_a_question_mark() -> None:
    assert encoded({"prompt": "a\ud800b"}) == b'{"prompt":"a?b"}'
