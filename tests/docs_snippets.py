"""The parts of the documentation that tests run: what it tells readers to copy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def snippets(page: str, language: str = "python") -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def names_in(page: str) -> dict[str, Any]:
    """Return the functions that a page's Python defines."""
    found: dict[str, Any] = {}
    for block in snippets(page):
        if "def " in block:
            exec(block, found)
    return found
