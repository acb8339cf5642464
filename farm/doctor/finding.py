"""Findings of `farm doctor`: good, worth knowing, or wrong, and the command that fixes it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    GOOD = "good"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `remedy`: the command or setting that fixes the problem."""

    name: str
    mark: Mark
    text: str
    remedy: str = ""


def good(name: str, text: str) -> Finding:
    """Return a finding that needs no action."""
    return Finding(name, Mark.GOOD, text)


def note(name: str, text: str, remedy: str = "") -> Finding:
    """Return a finding that is worth knowing, although nothing fails because of it."""
    return Finding(name, Mark.NOTE, text, remedy)


def wrong(name: str, text: str, remedy: str) -> Finding:
    """Return a finding that must be fixed."""
    return Finding(name, Mark.WRONG, text, remedy)


def refused(name: str, message: str, mark: Mark = Mark.WRONG) -> Finding:
    """Return an error message as a finding: the problem and, after a semicolon, the remedy."""
    text, _, remedy = message.partition("; ")
    return Finding(name, mark, text, remedy)


def size(count: float) -> str:
    """Format a number of bytes in decimal units: 1 GB is 1000 MB."""
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:,.1f} MB"
