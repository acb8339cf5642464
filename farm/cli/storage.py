"""`farm storage`: show where a farm keeps its images, and tell it that they were moved."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated

import typer

from farm.bootstrap import job_store, ownership_of, storage_for
from farm.cli.redis_access import redis_of
from farm.printable import say
from farm.retention.ownership import Ownership
from farm.settings import load
from farm.storage.storage import mark_of

app = typer.Typer(help="Make the storage of the settings the farm's own.", no_args_is_help=True)

DataFolder = Annotated[Path, typer.Option("--data-dir", help="Data folder of the farm.")]


@app.callback()
def storage() -> None:
    pass


@app.command()
def adopt(
    alone: Annotated[
        bool,
        typer.Option(
            "--alone", help="Remove the marks of other farms. Images of jobs that this farm does not know are deleted."
        ),
    ] = False,
    data_dir: DataFolder = Path(".farm"),
) -> None:
    """Use the storage of the settings from now on.

    Run this after you have moved the images to another folder or bucket. Then restart the farm.
    """
    with _ownership(data_dir) as ownership:
        removed = ownership.adopt(alone=alone)
        say(f"the farm's storage is {ownership.storage.place}")
    for farm_id in sorted(removed):
        say(f"mark removed: {mark_of(farm_id)}")


@contextmanager
def _ownership(data_dir: Path) -> Iterator[Ownership]:
    settings = load()
    with redis_of(settings, data_dir) as client:
        yield ownership_of(storage_for(settings, data_dir), job_store(settings, client), client)
