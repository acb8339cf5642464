"""The runbook's sections and their commands, as the tests execute them."""

from __future__ import annotations

import re
from dataclasses import dataclass

from tests.docs_snippets import DOCS, plain_lines

_BLOCK = re.compile(r"^```sh\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Section:
    """A section: its title, and the commands of its blocks in order."""

    title: str
    commands: tuple[str, ...]


def sections() -> dict[str, Section]:
    """Return the sections of the runbook by their titles."""
    _, *parts = re.split(r"^## ", (DOCS / "runbook.md").read_text(), flags=re.MULTILINE)
    return {section.title: section for section in map(_section, parts)}


def _section(text: str) -> Section:
    title, _, body = text.partition("\n")
    return Section(title, tuple(line for block in _BLOCK.findall(body) for line in plain_lines(block)))
