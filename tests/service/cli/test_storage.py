"""`farm storage adopt`: the command after images were moved, on Redis itself."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from farm.bootstrap import Farm, ownership_of, storage_for
from farm.jobstore import redis_keys
from farm.retention.ownership import OtherStorage, Ownership
from farm.settings import Settings
from farm.storage.storage import UNKNOWN_FARM, mark_of, new_key
from tests.images import sample_image
from tests.service.cli.commands import Runner


@pytest.fixture
def own_redis(redis_url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_REDIS_URL", redis_url)


def ownership(farm: Farm, data_dir: Path) -> Ownership:
    """Return the ownership of a process of this farm that starts on this data folder."""
    return ownership_of(storage_for(Settings(), data_dir), farm.store, farm.redis)


@pytest.mark.usefixtures("own_redis")
def test_after_a_move_the_new_storage_is_the_farms(farm: Farm, run: Runner, tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    ownership(farm, old).establish()
    with pytest.raises(OtherStorage, match="farm storage adopt"):
        ownership(farm, new).establish()

    ended = run("storage", "adopt", "--data-dir", str(new))

    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith("the farm's storage is ")
    assert str(new / "images") in ended.out
    ownership(farm, new).establish()
    assert str(new / "images") in str(farm.redis.get(redis_keys.STORAGE))


@pytest.mark.usefixtures("own_redis")
def test_the_marks_of_other_farms_are_removed_on_demand_only(farm: Farm, run: Runner, tmp_path: Path) -> None:
    storage = storage_for(Settings(), tmp_path)
    storage.put(new_key(str(uuid.uuid4()), 1, 0, "png"), sample_image())

    first = run("storage", "adopt", "--data-dir", str(tmp_path))
    alone = run("storage", "adopt", "--alone", "--data-dir", str(tmp_path))

    assert "mark removed" not in first.out
    assert alone.out.splitlines()[1:] == [f"mark removed: {mark_of(UNKNOWN_FARM)}"]
    assert len(storage.marks()) == 1


@pytest.mark.usefixtures("own_redis")
def test_a_storage_that_cannot_be_used_is_one_line(
    farm: Farm, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FARM_STORAGE_URL", "s3://bucket/prefix")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://127.0.0.1:9")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")

    ended = run("storage", "adopt", "--data-dir", str(tmp_path))

    assert (ended.status, ended.out) == (1, "")
    assert ended.err.startswith("farm: ")
    assert ended.err.count("\n") == 1
