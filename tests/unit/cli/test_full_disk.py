"""Files of commands on a full disk: the error is told, and nothing incomplete is left."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.atomic_file import write_atomically
from farm.domain.errors import ConfigurationError
from farm.process.backup import back_up
from tests.small_disk import small_disk

#: More than fits on the disk.
CONTENT = bytes(2 * 2**20)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    with small_disk(tmp_path / "disk", mebibytes=1) as disk:
        if disk is None:
            pytest.skip("this machine mounts no small disk; only root may")
        yield disk.folder


def test_an_image_is_there_whole_or_not_at_all(disk: Path) -> None:
    write_atomically(disk / "a.png", b"an older one")

    for name in ("a.png", "b.png"):
        with pytest.raises(OSError, match="No space left"):
            write_atomically(disk / name, CONTENT)

    assert [path.name for path in disk.iterdir()] == ["a.png"]
    assert (disk / "a.png").read_bytes() == b"an older one"


def test_a_backup_that_does_not_fit_leaves_nothing(disk: Path, tmp_path: Path) -> None:
    files = tmp_path / "data" / "redis" / "appendonlydir"
    files.mkdir(parents=True)
    (files / "appendonly.aof.1.incr.aof").write_bytes(CONTENT)

    with pytest.raises(ConfigurationError, match="cannot be written: No space left on device; name"):
        back_up(tmp_path / "data", disk / "copy")

    assert list(disk.iterdir()) == []
