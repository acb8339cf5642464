"""`farm`: the one program."""

from __future__ import annotations

import errno
import os
import sys
from typing import Annotated, NoReturn

import typer

from farm import __version__
from farm.cli import (
    backup,
    demo,
    doctor,
    examples,
    jobs,
    keys,
    render,
    simulate,
    storage,
    top,
    up,
    usage,
    webhooks,
    workers,
)
from farm.cli.weights import app as weights
from farm.domain.errors import ConfigurationError, FarmError, with_detail
from farm.printable import degrade_output, open_streams, say
from farm.process.child import EXIT_CONFIG
from farm.process.supervisor import ChildRefused
from farm.telemetry.log import log_to_stderr

#: Errors of a disk without space.
_FULL = (errno.ENOSPC, errno.EDQUOT)

app = typer.Typer(
    name="farm",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.command()(up.up)
app.command()(up.api)
app.command()(up.worker)
app.command()(demo.demo)
app.command()(render.render)
app.command()(workers.models)
app.command()(top.top)
app.command()(usage.usage)
app.command()(workers.pause)
app.command()(workers.resume)
app.command()(doctor.doctor)
app.command()(backup.backup)
app.command()(backup.restore)
app.command()(simulate.simulate)
app.add_typer(jobs.app, name="jobs")
app.add_typer(workers.workers, name="workers")
app.add_typer(webhooks.app, name="webhooks")
app.add_typer(keys.app, name="keys")
app.add_typer(storage.app, name="storage")
app.add_typer(weights.app, name="weights")
examples.add_to(app)


def _print_version(wanted: bool) -> None:
    if wanted:
        say(f"srpo-farm {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True, epilog=examples.below(""))
def root(
    context: typer.Context,
    _version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Render FLUX SRPO images on your own GPUs.

    Start a farm with `farm up`, then render with `farm render "a prompt"`.
    Settings are environment variables: see docs/settings.md.

    Exit status: 0, done; 1, failed, and the last line says why; 2, a wrong
    option or argument; 78, a setting or the installation must be fixed
    first; 130, ended by Ctrl-C. NO_COLOR=1 turns colours off.
    """
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


def main() -> None:
    """Run a command. An error is one line on stderr.

    The exit status is 1, 2 for a wrong option or argument, or EXIT_CONFIG if only a person can mend it.
    """
    open_streams()
    degrade_output()
    log_to_stderr()
    try:
        sys.exit(app(standalone_mode=False))
    except ChildRefused:
        sys.exit(EXIT_CONFIG)
    except FarmError as error:
        _fail(with_detail(error), EXIT_CONFIG if isinstance(error, ConfigurationError) else 1)
    except typer.TyperException as error:
        context: typer.Context | None = getattr(error, "ctx", None)
        advice = f" See `{context.command_path} --help`." if context else ""
        _fail(f"{error.format_message().rstrip('.')}.{advice}", 2)
    except typer.Abort:
        _fail("not confirmed, so nothing was changed (--yes does not ask)", 1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        _abandon_output()
    except OSError as error:
        if error.errno is None:
            raise
        if error.errno in _FULL:
            _abandon_output(f"cannot write {error.filename or 'the output'}: {error.strerror}")
        _abandon_output(f"{error.filename}: {error.strerror}" if error.filename else str(error.strerror))


def _abandon_output(reason: str = "") -> NoReturn:
    """End a command whose output has no reader or no space: at its exit, Python would write there again."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    if reason:
        _fail(reason, 1)
    sys.exit(1)


def _fail(message: str, status: int) -> NoReturn:
    say(f"farm: {message}", file=sys.stderr)
    sys.exit(status)
