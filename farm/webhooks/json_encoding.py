"""JSON as JavaScript writes it: a receiver that parses a body and writes it again gets the same, signed bytes."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from decimal import Decimal

#: Numbers outside of these limits have an exponent (ECMAScript, Number::toString).
_MIN_PLAIN, _MAX_PLAIN = 1e-6, 1e21


def encoded(value: object) -> bytes:
    """Return `value` as JSON in UTF-8. Lone surrogates, which UTF-8 cannot hold, become question marks."""
    return _text(value).encode(errors="replace")


def _text(value: object) -> str:
    match value:
        case float():
            return number(value)
        case Mapping():
            return "{" + ",".join(f"{_text(str(name))}:{_text(item)}" for name, item in value.items()) + "}"
        case str() | int() | None:
            return json.dumps(value, ensure_ascii=False)
        case Iterable():
            return "[" + ",".join(map(_text, value)) + "]"
        case _:
            raise TypeError(f"{type(value).__name__} is not JSON")


def number(value: float) -> str:
    """Return a finite number as JavaScript writes it: whole ones without a point, others without padded exponents."""
    if value == 0:
        return "0"
    text = repr(value)
    if _MIN_PLAIN <= abs(value) < _MAX_PLAIN:
        return f"{Decimal(text):f}".removesuffix(".0")
    return re.sub(r"e([+-])0*", r"e\1", text)
