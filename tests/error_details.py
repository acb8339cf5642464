"""Checks for errors whose details are for operators and not for callers."""

from __future__ import annotations

from collections.abc import Callable

from farm.domain.errors import FarmError


def told_to_operators(text: str) -> Callable[[FarmError], bool]:
    """Return a check for `pytest.raises`: `text` is in the error's detail, and not in what callers are sent."""
    return lambda error: text in error.detail and text not in str(error)
