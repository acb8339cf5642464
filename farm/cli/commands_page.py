"""`python -m farm.cli.commands_page docs/cli.md`: write the reference of all commands, from their help."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import typer
from typer.cli import get_docs_for_click
from typer.main import get_command

from farm.cli.main import app

#: The examples below a command, as the help shows them.
_EXAMPLES = re.compile(r"^\x08\nExamples:\n((?:  .+\n)+)", re.MULTILINE)


def page() -> str:
    """Return the text of docs/cli.md."""
    command = get_command(app)
    text = get_docs_for_click(obj=command, ctx=typer.Context(command), name="farm", title="Commands")
    return f"{_EXAMPLES.sub(_block, text).strip()}\n"


def _block(examples: re.Match[str]) -> str:
    lines = "".join(f"$ {line.strip()}\n" for line in examples[1].splitlines())
    return f"**Examples**:\n\n```console\n{lines}```\n"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
