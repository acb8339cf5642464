"""Append-only files that Redis cannot load, a socket and a lock file that somebody removed."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from farm.doctor.jobstore import files_at_rest
from farm.domain.errors import ConfigurationError
from farm.jobstore.connection import connect
from farm.process.data_dir import DataDir
from farm.process.embedded_redis import EmbeddedRedis

KEYS = 200


@pytest.fixture
def used(tmp_path: Path) -> Path:
    """Return a data folder whose Redis holds something and has stopped."""
    server = EmbeddedRedis(tmp_path)
    server.start()
    with connect(server.url) as client:
        for number in range(KEYS):
            client.set(f"key {number}", "x" * 50)
    server.stop()
    return tmp_path


def incremental(data_dir: Path) -> Path:
    (file,) = (data_dir / "redis" / "appendonlydir").glob("*.incr.aof")
    return file


@pytest.mark.parametrize("removed", ["", "redis", "redis/appendonlydir"])
def test_a_server_whose_files_were_removed_does_not_start_again_empty(tmp_path: Path, removed: str) -> None:
    server = EmbeddedRedis(tmp_path / "data")
    server.start()
    try:
        shutil.rmtree(tmp_path / "data" / removed)
        with pytest.raises(ConfigurationError, match="was removed while the farm ran"):
            server.start()
    finally:
        server.stop()


def test_damage_in_the_middle_is_found_and_mended_by_what_the_doctor_names(used: Path) -> None:
    file = incremental(used)
    content = bytearray(file.read_bytes())
    assert list(files_at_rest(used)) == []
    command = content.index(b"*3\r\n", 5000)
    content[command : command + 10] = b"X" * 10
    file.write_bytes(content)
    with pytest.raises(ConfigurationError, match="see farm doctor"):
        EmbeddedRedis(used).start()

    (finding,) = files_at_rest(used)

    assert "is damaged" in finding.text
    subprocess.run(finding.remedy, shell=True, input="y\n", text=True, check=True, capture_output=True)
    assert file.with_name(f"{file.name}.damaged").read_bytes() == content
    server = EmbeddedRedis(used)
    server.start()
    with connect(server.url) as client:
        assert 0 < int(client.dbsize()) < KEYS
    server.stop()


def test_a_last_command_that_was_cut_off_is_no_damage(used: Path) -> None:
    file = incremental(used)
    file.write_bytes(file.read_bytes()[:-7])

    assert list(files_at_rest(used)) == []


def test_a_missing_manifest_never_starts_empty(used: Path) -> None:
    (used / "redis" / "appendonlydir" / "appendonly.aof.manifest").unlink()

    with pytest.raises(ConfigurationError, match=r"appendonly\.aof\.manifest is missing") as refused:
        EmbeddedRedis(used).start()

    (finding,) = files_at_rest(used)
    assert f"{finding.text}; {finding.remedy}" == str(refused.value)


def test_a_socket_folder_that_a_cleaner_removed_is_made_again(tmp_path: Path) -> None:
    deep = tmp_path / ("x" * 100)  # too long for a socket, which then lies in a folder for temporary files
    server = EmbeddedRedis(deep)
    server.start()
    folder = Path(server.url.removeprefix("unix://")).parent
    assert tmp_path not in folder.parents
    shutil.rmtree(folder)
    assert (server.is_alive, server.is_reachable) == (True, False)

    server.start()

    with connect(server.url) as client:
        assert client.ping()
    server.stop()


def test_a_removed_lock_file_lets_no_second_farm_onto_the_folder(tmp_path: Path) -> None:
    first = DataDir(tmp_path / "data")
    first.acquire()
    (tmp_path / "data" / "lock").unlink()
    second = DataDir(tmp_path / "data")

    with pytest.raises(ConfigurationError, match="A farm already runs"):
        second.acquire()
    assert second.holder() is not None

    first.release()
    second.acquire()
    assert DataDir(tmp_path / "data").holder() == str(os.getpid())
    second.release()


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "cp1252"])
def test_output_degrades_on_terminals_that_are_not_utf_8(tmp_path: Path, encoding: str) -> None:
    program = [
        sys.executable,
        "-c",
        "from farm.printable import degrade_output, say; degrade_output(); say('✓ é → 狐')",
    ]

    done = subprocess.run(program, env=os.environ | {"PYTHONIOENCODING": encoding}, capture_output=True, check=True)

    assert done.stdout.startswith(b"+ ")
    assert done.stdout.endswith(b"-> ?\n")
