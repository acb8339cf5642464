"""The parts of the documentation that tests run: what it tells readers to copy."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

DOCS = Path(__file__).parents[1] / "docs"


def snippets(page: str, language: str = "python") -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def farm_commands(page: str) -> list[str]:
    """Return the lines of a page's shell code that call `farm`, each with what comes before it and after it."""
    lines = "\n".join(snippets(page, "sh")).replace("\\\n", " ").splitlines()
    return [line for line in lines if re.search(r"(^|[ /(])farm [a-z]", line.partition("#")[0])]


def names_in(page: str) -> dict[str, Any]:
    """Return the functions that a page's Python defines."""
    found: dict[str, Any] = {}
    for block in snippets(page):
        if "def " in block:
            exec(block, found)
    return found
