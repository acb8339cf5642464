"""`farm keys`: create, list, limit and revoke API keys. Works on Redis directly, whether or not the farm runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer

from farm import clock
from farm.auth.api_keys import ApiKeyStore
from farm.bootstrap import disk_guard
from farm.cli.redis_access import redis_of
from farm.cli.terminal import show_table
from farm.domain.errors import FarmError
from farm.domain.limits import MAX_COUNT, MAX_RATE, Limits
from farm.printable import say
from farm.settings import load

app = typer.Typer(help="Create, list, limit and revoke API keys.")

Rate = Annotated[int | None, typer.Option("--rate", min=0, max=MAX_RATE, help="Submits per minute. 0: no limit.")]
Waiting = Annotated[
    int | None, typer.Option("--waiting", min=0, max=MAX_COUNT, help="Jobs waiting at a time. 0: no limit.")
]
Images = Annotated[
    int | None, typer.Option("--images-per-day", min=0, max=MAX_COUNT, help="Images per day (UTC). 0: no limit.")
]
DataFolder = Annotated[Path, typer.Option("--data-dir", help="Data folder of the farm.")]
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of the caller. Keys of one name see the same jobs.")]


class BadKeyName(FarmError):
    """The name cannot be used for a key."""


class NoSuchKey(FarmError):
    """No key has this name or id."""


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_keys()


@app.command()
def create(
    name: Name,
    admin: Annotated[
        bool, typer.Option("--admin", help="Allow access to the jobs of all callers, workers and keys.")
    ] = False,
    rate: Rate = None,
    waiting: Waiting = None,
    images_per_day: Images = None,
    data_dir: DataFolder = Path(".farm"),
) -> None:
    """Create a key and print it. It cannot be shown again.

    Limits that you leave out are those of the settings.
    """
    with callers(data_dir) as known:
        try:
            say(known.create(name, is_admin=admin, limits=Limits(rate, waiting, images_per_day)))
        except ValueError as error:
            raise BadKeyName(f"NAME: '{name}' cannot be used: {error}") from error


@app.command("list")
def list_keys(data_dir: DataFolder = Path(".farm")) -> None:
    """List the valid keys and their own limits."""
    with callers(data_dir) as known:
        rows = [
            (
                key.id,
                key.name,
                "yes" if key.is_admin else "",
                clock.iso(key.created_us),
                *map(_shown, astuple(key.limits)),
            )
            for key in known.all()
        ]
    show_table(("id", "name", "admin", "created", "rate", "waiting", "images per day"), rows)


@app.command()
def limit(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the key.")],
    rate: Rate = None,
    waiting: Waiting = None,
    images_per_day: Images = None,
    data_dir: DataFolder = Path(".farm"),
) -> None:
    """Set the limits of a key.

    Limits that you leave out are reset to those of the settings.
    """
    with callers(data_dir) as known:
        count = known.limit(name, Limits(rate, waiting, images_per_day))
    if count == 0:
        raise NoSuchKey(f"No key has the name or id '{name}'.")
    say(f"limited: {count}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Name or id of the key.")],
    data_dir: DataFolder = Path(".farm"),
) -> None:
    """Revoke a key at once."""
    with callers(data_dir) as known:
        count = known.revoke(name)
    if count == 0:
        raise NoSuchKey(f"No key has the name or id '{name}'.")
    say(f"revoked: {count}")


def _shown(limit: int | None) -> str:
    return "no limit" if limit == 0 else str(limit or "")


@contextmanager
def callers(data_dir: Path) -> Iterator[ApiKeyStore]:
    """Yield the key store. Start the embedded Redis for the time if no farm runs."""
    settings = load()
    with redis_of(settings, data_dir) as client:
        yield ApiKeyStore(client, disk_guard(settings, data_dir))
