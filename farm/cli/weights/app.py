"""`farm weights`: prepare and check the files of real weights."""

from __future__ import annotations

import typer

from farm.cli.weights.convert import convert
from farm.cli.weights.verify import verify

app = typer.Typer(help="Prepare and check the files of real weights.", no_args_is_help=True)
app.command()(convert)
app.command()(verify)
