"""`farm`: the one program."""

from __future__ import annotations

import sys

import typer

from farm.cli import demo, doctor, jobs, keys, render, up, webhooks, workers
from farm.domain.errors import FarmError

app = typer.Typer(
    name="farm",
    help="Render FLUX SRPO images on your own GPUs.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(up.up)
app.command()(up.api)
app.command()(up.worker)
app.command()(render.render)
app.add_typer(jobs.app, name="jobs")
app.add_typer(workers.workers, name="workers")
app.add_typer(keys.app, name="keys")
app.add_typer(webhooks.app, name="webhooks")
app.command()(workers.pause)
app.command()(workers.resume)
app.command()(workers.models)
app.command()(doctor.doctor)
app.command(hidden=True)(demo.demo)


def main() -> None:
    """Run a command; what goes wrong is one line, and an exit status."""
    try:
        app()
    except FarmError as error:
        print(f"farm: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
