"""Findings of the doctor on a terminal."""

from __future__ import annotations

import shutil
import sys
import textwrap

from farm.doctor.finding import Finding, Mark
from farm.printable import printable, say

_SIGNS = {Mark.GOOD: "✓", Mark.NOTE: "!", Mark.WRONG: "✗"}
#: Column at which the text of a line begins.
_INDENT = 15


def say_finding(finding: Finding) -> None:
    """Print a finding."""
    for text in line(finding).split("\n"):
        say(text)


def line(finding: Finding) -> str:
    """Return a finding as text, wrapped if the output is a terminal."""
    head = f"{_SIGNS[finding.mark]} {finding.name}".ljust(_INDENT)
    remedy = f"\n{_wrapped('→ ' + printable(finding.remedy), ' ' * _INDENT)}" if finding.remedy else ""
    return _wrapped(printable(finding.text), head) + remedy


def _wrapped(text: str, head: str) -> str:
    if not sys.stdout.isatty():
        return head + text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * _INDENT, break_on_hyphens=False)
