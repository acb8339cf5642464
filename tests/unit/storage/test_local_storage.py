"""Images in a folder: whole or not at all, and only under valid storage keys."""

from __future__ import annotations

import io
import os
import secrets
import stat
from contextlib import closing, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest
import time_machine

from farm.domain.errors import NotFound, StorageError, StorageUnavailable
from farm.storage.local import LocalStorage
from farm.storage.storage import (
    CHUNK_BYTES,
    Chunks,
    Extension,
    Page,
    extension_for,
    matches_signature,
    new_key,
    new_upload_key,
    parse_key,
    part_key,
)
from tests.error_details import told_to_operators
from tests.unit.dialects.samples import JOB_ID

NEVER = 9_999_999_999
OTHER_ID = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c12"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    # So deep that no name below could lead out of `tmp_path`, not even if it were believed.
    return tmp_path / "a" / "b" / "c" / "images"


@pytest.fixture
def storage(root: Path) -> LocalStorage:
    return LocalStorage(root)


def everything(folder: Path) -> list[str]:
    """Return the names of all files below `folder`."""
    return sorted(path.name for path in folder.rglob("*") if not path.is_dir())


def test_a_stored_image_is_found(storage: LocalStorage) -> None:
    key = new_key(JOB_ID, 3, 0, "jpeg")
    storage.put(key, b"content")

    image = storage.find(key)

    assert image is not None
    assert (image.content_type, image.bytes) == ("image/jpeg", 7)
    assert abs((datetime.now(UTC) - image.stored_at).total_seconds()) < 10
    assert storage.read(key) == b"content"


@pytest.mark.parametrize(("start", "stop", "part"), [(0, 7, b"content"), (1, 3, b"on"), (6, 7, b"t"), (3, 3, b"")])
def test_a_part_can_be_read(storage: LocalStorage, start: int, stop: int, part: bytes) -> None:
    key = new_key(JOB_ID, 3, 0, "jpeg")
    storage.put(key, b"content")

    with closing(storage.open(key, start, stop)) as chunks:
        assert b"".join(chunks) == part


def test_a_large_image_is_read_in_pieces(storage: LocalStorage) -> None:
    key, content = new_key(JOB_ID, 3, 0, "png"), bytes(range(256)) * 1000
    storage.put(key, content)

    with closing(storage.open(key, 0, len(content))) as chunks:
        read = list(chunks)

    assert b"".join(read) == content
    assert max(map(len, read)) == CHUNK_BYTES


def test_reading_a_deleted_file_says_so(storage: LocalStorage) -> None:
    key = new_key(JOB_ID, 3, 0, "png")

    with pytest.raises(NotFound, match=key):
        storage.read(key)
    with pytest.raises(NotFound, match=key):
        storage.open(key, 0, 1)


def test_a_folder_has_no_address_for_callers(storage: LocalStorage) -> None:
    assert storage.url(new_key(JOB_ID, 3, 0, "png")) is None


def test_an_object_that_was_not_stored_is_not_found(storage: LocalStorage) -> None:
    assert storage.find(new_key(JOB_ID, 3, 0, "png")) is None


def test_an_image_removed_during_the_lookup_is_not_found(
    storage: LocalStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Path, "is_file", lambda _: True)

    assert storage.find(new_key(JOB_ID, 3, 0, "png")) is None


def test_an_image_is_for_the_farm_alone(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    old = os.umask(0)
    try:
        storage.put(key, b"content")
    finally:
        os.umask(old)

    path = root / key[:2] / key
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_no_name_can_be_guessed_and_none_comes_twice() -> None:
    keys = {new_key(JOB_ID, 1, 0, "png") for _ in range(100)}

    assert len(keys) == 100
    assert {len(key.split("-")[-1]) for key in keys} == {len("0123456789abcdef.png")}


def test_a_full_disk_leaves_nothing(storage: LocalStorage, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file it writes to is /dev/full, which takes nothing."""
    key = new_key(JOB_ID, 3, 0, "png")
    monkeypatch.setattr(secrets, "token_hex", lambda length: "0" * 2 * length)
    (root / key[:2]).mkdir(parents=True)
    (root / key[:2] / f".{key}.00000000.part").symlink_to("/dev/full")

    with pytest.raises(StorageUnavailable, check=told_to_operators("No space left")):
        storage.put(key, b"content")

    assert storage.find(key) is None
    assert everything(root) == []


def test_a_folder_that_cannot_be_made_is_a_storage_error(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    root.mkdir(parents=True)
    (root / key[:2]).write_text("a file where the folder would be")

    with pytest.raises(StorageError, check=told_to_operators("File exists")) as caught:
        storage.put(key, b"content")

    assert not isinstance(caught.value, StorageUnavailable), "no waiting cures this"
    assert storage.find(key) is None


def test_a_failed_rename_leaves_nothing_half_done(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    (root / key[:2] / key).mkdir(parents=True)

    with pytest.raises(StorageError):
        storage.put(key, b"content")

    assert storage.find(key) is None
    assert everything(root) == []


def test_a_half_written_image_is_not_found(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    (root / key[:2]).mkdir(parents=True)
    (root / key[:2] / f".{key}.part").write_bytes(b"pic")

    assert storage.find(key) is None
    assert storage.find(f".{key}.part") is None


def test_a_file_is_stored_as_its_bytes_would_be(storage: LocalStorage, root: Path) -> None:
    key, content = new_upload_key("bin", until=NEVER), bytes(range(256)) * 1000
    with io.BytesIO(content) as file:
        storage.put_file(key, file)

    assert storage.read(key) == content
    assert everything(root) == [key]


def test_a_file_that_is_stored_twice_at_once_is_whole_after_either(storage: LocalStorage, root: Path) -> None:
    """Its sender did not wait for the first answer."""
    key = new_upload_key("bin", until=NEVER)

    class Interrupted(io.BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            if not self.tell():
                storage.put(key, b"content")
            assert storage.read(key) == b"content"
            return super().read(size)

    storage.put_file(key, Interrupted(b"content"))

    assert storage.read(key) == b"content"
    assert everything(root) == [key]


@pytest.mark.parametrize(("seconds", "found"), [(60, True), (1, True), (0, False), (-1, False)])
def test_an_upload_is_found_until_its_time_is_over(storage: LocalStorage, seconds: int, found: bool) -> None:
    """Anyone who has been given it may read it a little longer."""
    with time_machine.travel(1_767_323_045, tick=False):
        key = new_upload_key("png", until=1_767_323_045 + seconds)
        storage.put(key, b"content")

        assert (storage.find(key) is not None) == found
        assert storage.read(key) == b"content"


def test_a_part_of_an_upload_is_not_served(storage: LocalStorage) -> None:
    upload = new_upload_key("png", until=NEVER)
    part = part_key(upload, 12, "0123456789abcdef" * 4)
    storage.put(part, b"part")

    assert storage.find(part) is None
    assert storage.read(part) == b"part"
    name = parse_key(part)
    assert name is not None
    assert (name.job_id, name.number, name.until, name.is_public) == (None, 12, NEVER, False)
    assert part.partition("-")[0] == upload.partition("-")[0]


@pytest.mark.parametrize(
    ("declared", "extension"),
    [
        ("image/png", "png"),
        ("image/jpeg", "jpeg"),
        ("image/jpg", "jpeg"),
        ("image/pjpeg", "jpeg"),
        ("image/webp", "webp"),
        (" Image/PNG ; charset=x", "png"),
        ("application/octet-stream", "bin"),
        ("image/gif", "bin"),
        ("image/", "bin"),
        ("", "bin"),
        ("png", "bin"),
        ("image/png\n", "png"),
    ],
)
def test_a_declared_type_has_an_extension(declared: str, extension: str) -> None:
    assert extension_for(declared) == extension


@pytest.mark.parametrize(
    ("extension", "head", "alike"),
    [
        ("png", b"\x89PNG\r\n\x1a\n\0\0\0\r", True),
        ("png", b"\x89PNG\r\n\x1a", False),
        ("jpeg", b"\xff\xd8\xff\xe0", True),
        ("jpeg", b"\xff\xd8", False),
        ("webp", b"RIFF\n\0\0\0WEBP", True),
        ("webp", b"RIFF\0\0\0\0WAVE", False),
        ("png", b"\xff\xd8\xff\xe0", False),
        ("png", b" \x89PNG\r\n\x1a\n", False),
        ("bin", b"", True),
    ],
)
def test_a_file_begins_as_its_kind_does(extension: Extension, head: bytes, alike: bool) -> None:
    assert matches_signature(extension, head) == alike


def test_a_second_put_replaces_the_whole(storage: LocalStorage, root: Path) -> None:
    key = new_key(JOB_ID, 3, 0, "png")
    storage.put(key, b"a longer image")
    storage.put(key, b"short")

    assert storage.read(key) == b"short"
    assert everything(root) == [key]


def test_deleting_a_job_removes_every_image_of_it_and_no_other(storage: LocalStorage, root: Path) -> None:
    kept = new_key(OTHER_ID, 1, 0, "png")
    for key in (kept, new_key(JOB_ID, 1, 0, "png"), new_key(JOB_ID, 1, 1, "png"), new_key(JOB_ID, 22, 0, "jpeg")):
        storage.put(key, b"content")
    (root / JOB_ID[:2] / f".{new_key(JOB_ID, 4, 0, 'png')}.part").write_bytes(b"pic")

    storage.delete_job(JOB_ID)

    assert everything(root) == [kept]


def test_deleting_a_job_without_images_is_no_error(storage: LocalStorage) -> None:
    storage.delete_job(JOB_ID)


def test_every_image_is_listed_folder_by_folder(storage: LocalStorage, root: Path) -> None:
    """Incomplete files of dead writers are listed, too, and no other foreign files."""
    keys = [new_key(job_id, 1, 0, "png") for job_id in (f"ff{JOB_ID[2:]}", OTHER_ID, OTHER_ID)]
    for key in keys:
        storage.put(key, b"content")
    part = f".{new_key(OTHER_ID, 2, 0, 'png')}.part"
    for name in (part, "notes.txt", f".{part}"):
        (root / OTHER_ID[:2] / name).write_bytes(b"")
    os.utime(root / keys[0][:2] / keys[0], (0, 0))

    met, page = [], storage.page("")
    met.append(page.entries)
    while page.cursor:
        page = storage.page(page.cursor)
        met.append(page.entries)

    assert [{one.name for one in found} for found in met] == [{*keys[1:], part}, {keys[0]}]
    assert [age > 1e9 for age in sorted(one.age_seconds for found in met for one in found)] == [False] * 3 + [True]


def test_an_empty_storage_has_one_empty_page(storage: LocalStorage) -> None:
    assert storage.page("") == Page((), "")


def test_listed_entries_can_be_removed(storage: LocalStorage, root: Path) -> None:
    kept, removed = new_key(JOB_ID, 1, 0, "png"), new_key(JOB_ID, 1, 1, "png")
    part = f".{new_key(JOB_ID, 2, 0, 'png')}.part"
    for key in (kept, removed):
        storage.put(key, b"content")
    (root / JOB_ID[:2] / part).write_bytes(b"")

    for name in (removed, part, removed):
        storage.remove(name)

    assert everything(root) == [kept]


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
    f"{'0' * 32}-upload.png",
    f"{'0' * 32}-upload-176732304.png",
    f"{'0' * 32}-upload-17673230450.png",
    f"{'0' * 32}-upload-1767323045.exe",
    f"{'0' * 31}-upload-1767323045.png",
    f"{'0' * 32}-part-1767323045-1-0123456789abcdef.png",
    f"{'0' * 32}-part-1767323045-1.bin",
]


@pytest.fixture(params=ODD)
def odd(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    name: str = request.param
    return f"{tmp_path}{name}" if name.startswith("/") else name


def test_a_name_that_is_not_a_key_is_not_found(storage: LocalStorage, root: Path, odd: str) -> None:
    """It is not found even if a file has that name."""
    root.mkdir(parents=True)
    with suppress(OSError, ValueError):
        (root / odd[:2]).mkdir(exist_ok=True)
        (root / odd[:2] / odd).write_text("secret")

    assert storage.find(odd) is None
    assert storage.page("").entries == ()


def test_nothing_is_written_under_an_invalid_key(storage: LocalStorage, tmp_path: Path, odd: str) -> None:
    with pytest.raises((StorageError, ValueError)):
        storage.put(odd, b"content")

    assert everything(tmp_path) == []


class BrokenSource:
    """A storage whose answer breaks off after its head."""

    closed = False

    def read(self, amount: int, /) -> bytes:
        raise StorageUnavailable("It breaks off.")

    def close(self) -> None:
        self.closed = True


def test_a_source_that_breaks_off_at_once_raises_before_the_answer() -> None:
    source = BrokenSource()

    with pytest.raises(StorageUnavailable):
        Chunks(source, 10)

    assert source.closed
