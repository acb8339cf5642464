"""JSON of webhook bodies: JavaScript, which parses and writes them again, gets the same bytes."""

from __future__ import annotations

import json
import math
import random
import string
import struct
import subprocess
from typing import Any

import pytest

from farm.webhooks.json_encoding import encoded, number
from tests.javascript import NODE

#: Reads a JSON array of texts, and writes each of them as JavaScript would write what it has read.
_PROGRAM = """
const texts = JSON.parse(require("fs").readFileSync(0, "utf8"));
console.log(JSON.stringify(texts.map((text) => JSON.stringify(JSON.parse(text)))));
"""

#: Values at a time: many times what a run of Node.js costs.
_VALUES = 2000
#: Every plane of Unicode but the surrogates, and more often what JSON escapes.
_CHARACTERS = [range(0x20), range(0x20, 0x7F), range(0x7F, 0xD800), range(0xE000, 0x110000)]


def random_value(depth: int) -> Any:
    """Return any value of JSON, at most so many levels deep."""
    if depth and random.random() < 0.5:
        items = [random_value(depth - 1) for _ in range(random.randrange(4))]
        # JavaScript moves names that are numbers to the front.
        return items if random.random() < 0.5 else {random_name(): item for item in items}
    return random.choice([random_constant, random_integer, random_float, random_text])()


def random_name() -> str:
    return "".join(random.choices(string.ascii_lowercase + "_", k=random.randint(1, 8)))


def random_constant() -> bool | None:
    return random.choice([None, True, False])


def random_integer() -> int:
    return random.randint(-1, 1) * random.getrandbits(random.randint(1, 53))


def random_float() -> float:
    """Return a finite float: as people write it, about where exponents begin, or of any magnitude."""
    (of_any_bits,) = struct.unpack("d", random.randbytes(8))
    found = random.choice(
        [
            round(random.uniform(-1000, 1000), random.randrange(8)),
            random.uniform(-1, 1) * 10.0 ** random.randint(-10, 25),
            of_any_bits,
        ]
    )
    return found if math.isfinite(found) else 0.0


def random_text() -> str:
    return "".join(chr(random.choice(random.choice(_CHARACTERS))) for _ in range(random.randrange(8)))


def written_by_javascript(texts: list[str]) -> list[str]:
    done = subprocess.run(
        [NODE, "-e", _PROGRAM], input=json.dumps(texts), capture_output=True, text=True, check=True, timeout=60
    )
    result: list[str] = json.loads(done.stdout)
    return result


def test_javascript_writes_the_same() -> None:
    values = [random_value(depth=3) for _ in range(_VALUES)]
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
