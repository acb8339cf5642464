"""The line that a process logs at its start about a storage that does not work."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from farm import bootstrap
from farm.bootstrap import say_if_storage_fails
from farm.domain.errors import ConfigurationError, StorageError, StorageUnavailable
from farm.storage.local import LocalStorage
from farm.storage.probe import Inconsistent, Probe
from farm.storage.storage import parse_key


class Broken(LocalStorage):
    """A folder whose `put` fails or hangs, or whose `read` returns other bytes."""

    def __init__(self, root: Path, failure: StorageError | threading.Event | None = None) -> None:
        super().__init__(root)
        self._failure = failure

    def put(self, key: str, content: bytes) -> None:
        if isinstance(self._failure, threading.Event):
            self._failure.wait(30)
        elif self._failure:
            raise self._failure
        super().put(key, content)

    def read(self, key: str) -> bytes:
        return super().read(key)[1:] if self._failure is None else super().read(key)


def test_a_working_storage_is_left_unchanged_and_not_reported(tmp_path: Path) -> None:
    with capture_logs() as log:
        say_if_storage_fails(LocalStorage(tmp_path))

    assert log == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_the_probe_writes_a_key_that_belongs_to_no_job(tmp_path: Path) -> None:
    """An image of an unknown job would make another farm that starts at the same time keep its orphans for ever."""
    names: list[str] = []

    class Noted(LocalStorage):
        def put(self, key: str, content: bytes) -> None:
            names.append(key)
            super().put(key, content)

    Probe().run(Noted(tmp_path))

    (key,) = map(parse_key, names)
    assert key is not None
    assert (key.job_id, key.until is None) == (None, False)


def test_an_absent_storage_is_reported_with_the_reason(tmp_path: Path) -> None:
    """The process starts all the same: finished images wait."""
    with capture_logs() as log:
        say_if_storage_fails(Broken(tmp_path, StorageUnavailable(detail="the bucket 'x' refuses: NoSuchBucket")))

    (line,) = log
    assert line["event"] == "the storage cannot be used yet"
    assert "NoSuchBucket" in line["reason"]


def test_a_storage_that_does_not_answer_delays_no_start(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bootstrap, "STORAGE_SECONDS", 0.05)
    released = threading.Event()

    with capture_logs() as log:
        say_if_storage_fails(Broken(tmp_path, released))
    released.set()

    assert [line["event"] for line in log] == ["the storage does not answer yet"]


@pytest.mark.parametrize("failure", [StorageError(detail="InvalidBucketName"), None])
def test_a_storage_that_will_never_work_ends_the_start(tmp_path: Path, failure: StorageError | None) -> None:
    with pytest.raises(ConfigurationError, match=r"The storage cannot be used: .*; see farm doctor"):
        say_if_storage_fails(Broken(tmp_path, failure))


def test_other_bytes_than_were_written_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(Inconsistent, match="other bytes"):
        Probe().run(Broken(tmp_path))
