"""What the doctor finds: good, worth knowing, or wrong; and what mends it."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Mark(StrEnum):
    GOOD = "good"
    NOTE = "note"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report. `remedy`: the command or the setting that mends it."""

    name: str
    mark: Mark
    text: str
    remedy: str = ""


def good(name: str, text: str) -> Finding:
    return Finding(name, Mark.GOOD, text)


def note(name: str, text: str, remedy: str = "") -> Finding:
    """Worth knowing; nothing fails for it."""
    return Finding(name, Mark.NOTE, text, remedy)


def wrong(name: str, text: str, remedy: str) -> Finding:
    return Finding(name, Mark.WRONG, text, remedy)


def refused(name: str, message: str, mark: Mark = Mark.WRONG) -> Finding:
    """What the farm says where it does not start: what is wrong and, behind a semicolon, what to do."""
    text, _, remedy = message.partition("; ")
    return Finding(name, mark, text, remedy)


def size(count: float) -> str:
    """Bytes for people, as disks and cards are sold: 1 GB is 1000 MB."""
    if count >= 1e9:
        return f"{count / 1e9:,.1f} GB"
    return f"{count / 1e6:,.1f} MB"
