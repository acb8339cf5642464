"""Pictures in a folder: whole or not at all, and under no name but a key's."""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from pathlib import Path

import pytest

from farm.errors import StorageError
from farm.storage.local import LocalStorage, new_key
from tests.unit.samples import JOB_ID

OTHER_ID = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c12"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # So deep that no name below could lead out of `tmp_path`, not even if it were believed.
    return tmp_path / "a" / "b" / "c" / "pictures"


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root)


def everything(folder: Path) -> list[str]:
    """The names of all files below `folder`."""
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def test_what_was_put_is_found(storage: LocalStorage) -> None:
    key = new_key(JOB_ID, 3, 0, "jpeg")
    storage.put(key, b"picture")

    path = storage.find(key)

    assert path is not None
    assert path.read_bytes() == b"picture"


def test_what_was_not_put_is_not_found(storage: LocalStorage) -> None:
    assert storage.find(new_key(JOB_ID, 3, 0, "png")) is None


def test_a_picture_is_for_the_farm_alone(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    old = os.umask(0)
    try:
        storage.put(key, b"picture")
    finally:
        os.umask(old)

    path = storage.find(key)
    assert path is not None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_name_can_be_guessed_and_none_comes_twice() -> None:
    keys = {new_key(JOB_ID, 1, 0, "png") for _ in range(100)}

    assert len(keys) == 100
    assert {len(key.split("-")[-1]) for key in keys} == {len("0123456789abcdef.png")}


def test_a_full_disk_leaves_nothing(storage: LocalStorage, root: Path) -> None:
    """The file it writes to is /dev/full, which takes nothing."""
    key = new_key(JOB_ID, 3, 0, "png")
    (root / key[:2]).mkdir(parents=True)
    (root / key[:2] / f".{key}.part").symlink_to("/dev/full")

    with pytest.raises(StorageError, match="No space left"):
        storage.put(key, b"picture")

    assert storage.find(key) is None
    assert everything(root) == []


def test_a_folder_that_cannot_be_made_is_a_storage_error(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    root.mkdir(parents=True)
    (root / key[:2]).write_text("a file where the folder would be")

    with pytest.raises(StorageError, match=str(root)):
        storage.put(key, b"picture")

    assert storage.find(key) is None


def test_a_failed_rename_leaves_nothing_half_done(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    (root / key[:2] / key).mkdir(parents=True)

    with pytest.raises(StorageError):
        storage.put(key, b"picture")

    assert storage.find(key) is None
    assert everything(root) == []


def test_a_half_written_picture_is_not_found(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    (root / key[:2]).mkdir(parents=True)
    (root / key[:2] / f".{key}.part").write_bytes(b"pic")

    assert storage.find(key) is None
    assert storage.find(f".{key}.part") is None


def test_a_second_put_replaces_the_whole(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    storage.put(key, b"a longer picture")
    storage.put(key, b"short")

    path = storage.find(key)

    assert path is not None
    assert path.read_bytes() == b"short"
    assert everything(root) == [key]


def test_deleting_a_job_removes_every_picture_of_it_and_no_other(storage: LocalStorage, root: Path) -> None:
    kept = new_key(OTHER_ID, 1, 0, "png")
    for key in (kept, new_key(JOB_ID, 1, 0, "png"), new_key(JOB_ID, 1, 1, "png"), new_key(JOB_ID, 22, 0, "jpeg")):
        storage.put(key, b"picture")
    (root / JOB_ID[:2] / f".{new_key(JOB_ID, 4, 0, 'png')}.part").write_bytes(b"pic")

    storage.delete_job(JOB_ID)

    assert everything(root) == [kept]


def test_deleting_a_job_without_pictures_is_no_error(storage: LocalStorage) -> None:
    storage.delete_job(JOB_ID)


#: Names that are no keys. Those that are paths stay within the test's own folder, so that a failure does no harm.
ODD = [
    "",
    ".",
    "..",
    "x",
    "../../secret",
    "/absolute",
    f"../{JOB_ID}-1-0-0123456789abcdef.png",
    f"{JOB_ID}-1-0-0123456789abcdef.png/..",
    f"{JOB_ID}-1-0-0123456789abcdef.png\n",
    f"{JOB_ID}-1-0-0123456789abcdef.png\0",
    f"{JOB_ID}-1-0-0123456789abcdef.exe",
    f"{JOB_ID}-1-0-0123456789ABCDEF.png",
    f"{JOB_ID}-1-0.png",
]


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name: str = request.param
    return f"{tmp_path}{name}" if name.startswith("/") else name


def test_what_is_no_key_is_not_found(storage: LocalStorage, root: Path, odd: str) -> None:
    """Not even where a file lies there."""
    root.mkdir(parents=True)
    with suppress(OSError, ValueError):
        (root / odd[:2]).mkdir(exist_ok=True)
        (root / odd[:2] / odd).write_text("secret")

    assert storage.find(odd) is None


def test_nothing_is_written_under_what_is_no_key(storage: LocalStorage, tmp_path: Path, odd: str) -> None:
    with pytest.raises((StorageError, ValueError)):
        storage.put(odd, b"picture")

    assert everything(tmp_path) == []
