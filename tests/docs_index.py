"""`python -m tests.docs_index docs/llms.txt`: the documentation's table of contents, for language models."""

from __future__ import annotations

import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.docs_snippets import DOCS

CONFIGURATION = DOCS.parent / "zensical.toml"


def navigation() -> dict[str, Any]:
    """Return the site's configuration."""
    with CONFIGURATION.open("rb") as file:
        project: dict[str, Any] = tomllib.load(file)["project"]
    return project


def pages(entries: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """Yield title and file of each page of the navigation, in order."""
    for entry in entries:
        for title, target in entry.items():
            if isinstance(target, str):
                yield title, target
            else:
                yield from pages(target)


def summary(name: str) -> str:
    """Return the first paragraph of a page as one line."""
    paragraphs = (DOCS / name).read_text().split("\n\n")
    return " ".join(next(text for text in paragraphs[1:] if text.strip()).split())


def index() -> str:
    """Return docs/llms.txt; its form is https://llmstxt.org."""
    project = navigation()
    listed = [f"- [{title}]({name}): {summary(name)}" for title, name in pages(project["nav"]) if name != "index.md"]
    return "\n".join(
        [f"# {project['site_name']}", "", f"> {project['site_description']}", "", "## Docs", "", *listed, ""]
    )


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(index())
