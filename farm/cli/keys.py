"""`farm keys`: API keys, on Redis itself, whether or not the farm runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import astuple
from pathlib import Path
from typing import Annotated

import typer

from farm import clock
from farm.auth.api_keys import Callers
from farm.bootstrap import redis_url
from farm.cli.tables import show as show_table
from farm.domain.errors import FarmError
from farm.domain.limits import MOST_RATE, Limits
from farm.jobstore.connection import connect
from farm.process.data_dir import DataDir
from farm.process.embedded_redis import EmbeddedRedis
from farm.settings import load

app = typer.Typer(help="API keys. A key is shown once and kept as a hash.")

Rate = Annotated[int | None, typer.Option("--rate", min=0, max=MOST_RATE, help="Submits a minute; 0: any.")]
Waiting = Annotated[int | None, typer.Option("--waiting", min=0, help="Jobs that wait at a time; 0: any.")]
Images = Annotated[int | None, typer.Option("--images-per-day", min=0, help="Images a day (UTC); 0: any.")]
DataFolder = Annotated[Path, typer.Option("--data-dir", help="The farm's data folder.")]
Name = Annotated[str, typer.Argument(help="Whose key; a second key of a name sees the same jobs.")]


class BadKeyName(FarmError):
    """That is no name for a key."""


class NoSuchKey(FarmError):
    """No key has that name or id."""


@app.command()
def create(
    name: Name,
    admin: Annotated[bool, typer.Option("--admin", help="May see every caller's jobs, workers, keys.")] = False,
    rate: Rate = None,
    waiting: Waiting = None,
    images_per_day: Images = None,
    data_dir: DataFolder = Path(".farm"),
) -> None:
    """Make a key and show it, this once. A limit that is not given is the farm's own."""
    with callers(data_dir) as known:
        try:
            print(known.create(name, is_admin=admin, limits=Limits(rate, waiting, images_per_day)))
        except ValueError as error:
            raise BadKeyName(f"'{name}' cannot be used: {error}") from error


@app.command("list")
def list_keys(data_dir: DataFolder = Path(".farm")) -> None:
    """The valid keys, with their limits where they have their own."""
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
    show_table(("id", "name", "admin", "created", "rate", "waiting", "images a day"), rows)


@app.command()
def limit(
    name: Annotated[str, typer.Argument(help="A key's name or id.")],
    rate: Rate = None,
    waiting: Waiting = None,
    images_per_day: Images = None,
    data_dir: DataFolder = Path(".farm"),
) -> None:
    """Give a key these limits from now on. One that is not given is the farm's own again."""
    with callers(data_dir) as known:
        count = known.limit(name, Limits(rate, waiting, images_per_day))
    if count == 0:
        raise NoSuchKey(f"No key has the name or id '{name}'.")
    print(f"limited: {count}")


@app.command()
def revoke(
    name: Annotated[str, typer.Argument(help="A key's name or id.")], data_dir: DataFolder = Path(".farm")
) -> None:
    """Make a key invalid at once."""
    with callers(data_dir) as known:
        count = known.revoke(name)
    if count == 0:
        raise NoSuchKey(f"No key has the name or id '{name}'.")
    print(f"revoked: {count}")


def _shown(most: int | None) -> str:
    return "any" if most == 0 else str(most or "")


@contextmanager
def callers(data_dir: Path) -> Iterator[Callers]:
    """The keys, where the farm keeps them; its embedded Redis is started for as long as it takes."""
    settings, folder = load(), DataDir(data_dir)
    if settings.redis_url or not folder.try_take():
        yield Callers(connect(redis_url(settings, folder.path)))
        return
    server = EmbeddedRedis(folder.path, fsync=settings.redis_fsync)
    try:
        server.start()
        yield Callers(connect(server.url))
    finally:
        server.stop()
        folder.release()
