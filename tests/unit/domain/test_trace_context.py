"""The trace context of a call: what the W3C's rules accept is taken, and anything else is ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from farm.domain.trace_context import TraceContext, cleaned, parse

TRACE, SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
VALID = f"00-{TRACE}-{SPAN}-01"


@pytest.mark.parametrize(
    ("header", "stored"),
    [
        (VALID, VALID),
        (f"00-{TRACE}-{SPAN}-00", f"00-{TRACE}-{SPAN}-00"),
        (f"00-{TRACE}-{SPAN}-03", VALID),
        (f"01-{TRACE}-{SPAN}-01", VALID),
        (f"cc-{TRACE}-{SPAN}-01-what-comes-later", VALID),
    ],
)
def test_a_trace_context_is_taken(header: str, stored: str) -> None:
    assert cleaned(header) == stored


@pytest.mark.parametrize(
    "header",
    [
        "",
        "garbage",
        f"{VALID}-more",
        f" {VALID}",
        f"{VALID}\n",
        VALID.upper(),
        f"ff-{TRACE}-{SPAN}-01",
        f"cc-{TRACE}-{SPAN}-01.more",
        f"00-{'0' * 32}-{SPAN}-01",
        f"00-{TRACE}-{'0' * 16}-01",
        f"00-{TRACE[1:]}-{SPAN}-01",
        f"00-{TRACE}-{SPAN}-1",
        f"{VALID},{VALID}",
        f"cc-{TRACE}-{SPAN}-01-{'x' * 1000}",
    ],
)
def test_anything_else_is_ignored(header: str) -> None:
    assert cleaned(header) == ""


@given(st.text())
def test_any_text_is_ignored_or_taken_without_an_error(header: str) -> None:
    assert cleaned(header) in ("", header)


@given(st.integers(1, 2**128 - 1), st.integers(1, 2**64 - 1), st.booleans())
def test_a_written_value_is_read_back(trace: int, span: int, is_sampled: bool) -> None:
    context = TraceContext(f"{trace:032x}", f"{span:016x}", is_sampled)

    assert parse(str(context)) == context
