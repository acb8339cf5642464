"""`farm weights`: prepare and check the files of real weights, and calibrate their acceleration."""

from __future__ import annotations

import typer

from farm.cli.weights.calibrate import calibrate
from farm.cli.weights.convert import convert
from farm.cli.weights.verify import verify

app = typer.Typer(help="Prepare, check and calibrate real weights.", no_args_is_help=True)
app.command()(calibrate)
app.command()(convert)
app.command()(verify)
