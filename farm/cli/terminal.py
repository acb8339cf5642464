"""Tables and JSON on the standard output, in which text from callers, receivers and servers cannot do harm."""

from __future__ import annotations

import base64
import json
import os
import sys
from collections.abc import Iterable, Mapping
from io import BytesIO

from rich.console import Console
from rich.table import Table
from rich.text import Text

from farm.domain.job import FULL_STEPS
from farm.domain.measures import STAGES
from farm.printable import printable, say
from farm.settings import is_iterm

#: Columns of a table outside a terminal: no path or prompt is folded.
_UNCUT = 1000
#: Width of an image, in characters.
_IMAGE_COLUMNS = 60


def say_json(value: object) -> None:
    """Print `value` as JSON in ASCII."""
    for line in json.dumps(value, indent=2).replace("\x7f", "\\u007f").split("\n"):  # JSON leaves DEL as it is
        say(line)


def timings_text(timings: Mapping[str, float]) -> dict[str, str]:
    """Return a job's timings as text, stages first and in their order: seconds, and the number of full steps."""
    stages = [name for name in STAGES if name in timings]
    names = dict.fromkeys([*stages, *timings])
    return {name: f"{timings[name]:g}" if name == FULL_STEPS else f"{timings[name]:.2f} s" for name in names}


def show_images(files: Iterable[bytes]) -> None:
    """Show image files by the terminal's own protocol (iTerm2's, kitty's, sixel) where it has one, else in blocks."""
    if sys.stdout.isatty() and 0 in os.get_terminal_size(sys.stdout.fileno()):
        say("The terminal has no size, so no image is shown in it.", file=sys.stderr)
        return
    console = Console(stderr=True)
    if is_iterm(sys.stderr):
        for file in files:
            sys.stderr.write(f"{_iterm_image(file, min(_IMAGE_COLUMNS, console.width))}\n")
        return
    # Importing it asks the terminal what it can.
    from textual_image.renderable import Image

    for file in files:
        console.print(Image(BytesIO(file), width=min(_IMAGE_COLUMNS, console.width)))


def _iterm_image(content: bytes, columns: int) -> str:
    """Return the sequence that has iTerm2 show an image file: its format is iterm2.com/documentation-images.html."""
    return f"\x1b]1337;File=inline=1;width={columns};size={len(content)}:{base64.b64encode(content).decode()}\a"


def show_table(columns: Iterable[str], rows: Iterable[Iterable[object]]) -> None:
    """Print a plain table. Outside a terminal no cell is cut."""
    console = Console()
    if not console.is_terminal:
        console = Console(width=_UNCUT)
    console.print(plain_table(columns, rows))


def plain_table(columns: Iterable[str], rows: Iterable[Iterable[object]], title: str | None = None) -> Table:
    """Return a table without lines. Nothing in a cell is markup or a control sequence."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold")
    for row in rows:
        # As `Text`, a cell has no markup.
        table.add_row(*(Text("" if cell is None else printable(str(cell))) for cell in row))
    return table
