"""`farm backup` and `farm restore`: copies of the embedded Redis, which holds all jobs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from farm.domain.errors import ConfigurationError
from farm.printable import say
from farm.process import backup as redis_backup
from farm.settings import load

DataFolder = Annotated[Path, typer.Option("--data-dir", help="Data folder of the farm.")]


def backup(
    folder: Annotated[Path, typer.Argument(help="New folder for the copy.")], data_dir: DataFolder = Path(".farm")
) -> None:
    """Copy the embedded Redis, with all jobs and keys.

    The farm may run meanwhile.

    Images are not copied: copy the folder `images` of the data folder afterwards.
    """
    _refuse_own_redis("redis-cli -u URL --rdb FILE")
    redis_backup.back_up(data_dir, folder)
    size = sum(file.stat().st_size for file in folder.rglob("*") if file.is_file())
    say(f"{folder}: {size / 1e6:.1f} MB")


def restore(
    folder: Annotated[Path, typer.Argument(help="Folder that `farm backup` has written.")],
    data_dir: DataFolder = Path(".farm"),
) -> None:
    """Copy a backup of the embedded Redis into a data folder.

    The folder must have no Redis. Start the farm there afterwards.
    """
    _refuse_own_redis("a Redis that starts with that file as its dump.rdb")
    redis_backup.restore(folder, data_dir)
    say(f"restored to {data_dir}: copy its images there, too, then start the farm")


def _refuse_own_redis(instead: str) -> None:
    """Raise ConfigurationError for a farm with a Redis of its operator's."""
    if load().redis_url is not None:
        raise ConfigurationError(f"FARM_REDIS_URL is set, and this is for the embedded Redis; use {instead}")
