"""Versions of the farm that may work side by side on one Redis."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import redis

from farm.bootstrap import reach
from farm.doctor import jobstore
from farm.domain.errors import ConfigurationError
from farm.jobstore import redis_keys, schema
from farm.jobstore.schema import CURRENT, Schema
from farm.jobstore.store import JobStore
from farm.settings import Settings
from tests.service.jobstore.jobs import submit


@pytest.fixture(autouse=True)
def nothing_left(client: redis.Redis) -> Iterator[None]:
    """Leave no schema behind: other tests build a farm on this Redis before they empty it."""
    yield
    client.delete(redis_keys.SCHEMA)


def test_the_first_farm_on_a_redis_declares_its_schema(client: redis.Redis) -> None:
    assert schema.read(client) is None

    schema.declare(client)

    assert schema.read(client) == CURRENT


def test_data_without_a_schema_counts_as_the_oldest(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    assert schema.read(client) == Schema(0, 0)

    schema.declare(client, Schema(1, 0))

    assert schema.read(client) == Schema(1, 0)


def test_versions_that_accept_each_other_replace_each_other_and_back(client: redis.Redis) -> None:
    old, new = Schema(4, 3), Schema(5, 4)

    for each in (old, new, old, new):
        schema.declare(client, each)

    assert schema.read(client) == new


@pytest.mark.parametrize(
    ("there", "starts", "message"),
    [
        (Schema(2, 2), Schema(5, 4), "holds schema 2 .* works with schema 4 or later"),
        (Schema(5, 4), Schema(3, 3), "a newer version .*schema 5.* schema 4 or later works, .* schema 3;"),
    ],
    ids=["too old", "too new"],
)
def test_a_start_beside_a_version_that_does_not_fit_is_refused(
    client: redis.Redis, there: Schema, starts: Schema, message: str
) -> None:
    schema.declare(client, there)

    with pytest.raises(ConfigurationError, match=message) as refused:
        schema.declare(client, starts)

    assert "\n" not in str(refused.value)
    assert schema.read(client) == there
    finding = jobstore.schema_finding(there, starts)
    assert f"{finding.text}; {finding.remedy}" == str(refused.value)


def test_processes_check_it_when_they_start(client: redis.Redis, redis_url: str, tmp_path: Path) -> None:
    client.hset(redis_keys.SCHEMA, mapping={"number": CURRENT.number + 9, "oldest": CURRENT.number + 8})

    with pytest.raises(ConfigurationError, match="newer version of the farm"):
        reach(Settings(redis_url=redis_url, redis_unsafe=True), tmp_path)


def test_the_doctor_names_the_schema() -> None:
    assert "schema 5" in jobstore.schema_finding(Schema(5, 4), Schema(5, 4)).text
    assert "no farm" in jobstore.schema_finding(None, Schema(5, 4)).text
