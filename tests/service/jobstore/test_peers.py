"""Processes of one Redis with settings that differ, as of two farms on it."""

from __future__ import annotations

import json
from typing import Any

import pytest
import redis
import time_machine

from farm import clock
from farm.domain.errors import StoreDiskFull
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect
from farm.jobstore.peers import GONE_SECONDS, Kind, Peers, alive, differences, leave, values_of
from farm.jobstore.redis_time import microseconds
from farm.settings import Settings
from tests.farms import free_port

SECRET = "MDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDAwMDA="


def put(client: redis.Redis, name: str, kind: Kind, *, seconds_ago: float = 0, **settings: Any) -> None:
    """Announce a process of another machine."""
    values = values_of(kind, Settings().model_copy(update=settings))
    at_us = microseconds(client.time()) - round(seconds_ago * 1e6)
    client.hset(redis_keys.PROCESSES, name, json.dumps({"at_us": at_us, "values": values}))


def test_processes_with_equal_settings_do_not_differ(client: redis.Redis, capsys: pytest.CaptureFixture[str]) -> None:
    put(client, "api a:1", "api")
    put(client, "webhook worker a:2", "webhook worker")

    Peers(client, "worker", Settings()).join()

    assert len(alive(client)) == 3
    assert list(differences(alive(client))) == []
    assert "".join(capsys.readouterr()) == ""


@pytest.mark.parametrize(
    ("kind", "settings", "name", "shown"),
    [
        ("api", {"price_per_image": 0.5}, "FARM_PRICE_PER_IMAGE", "'0.5' of api a:1"),
        ("api", {"model_aliases": {"dall-e-3": "srpo"}}, "FARM_MODEL_ALIASES", "'dall-e-3': 'srpo'"),
        ("worker", {"lease_seconds": 60.0}, "FARM_LEASE_SECONDS", "'60.0' of worker a:1"),
        ("webhook worker", {"webhook_allow": frozenset("ba")}, "FARM_WEBHOOK_ALLOW", "'a,b' of webhook worker a:1"),
        ("webhook worker", {"signing_key": SECRET}, "FARM_SIGNING_KEY", "'sha256 "),
    ],
)
def test_a_process_says_at_its_start_how_it_differs(
    client: redis.Redis,
    capsys: pytest.CaptureFixture[str],
    kind: Kind,
    settings: dict[str, Any],
    name: str,
    shown: str,
) -> None:
    put(client, f"{kind} a:1", kind, **settings)

    Peers(client, "api", Settings()).join()

    (line,) = differences(alive(client))
    assert line.startswith(f"{name} is ")
    assert shown in line
    log = "".join(capsys.readouterr())
    assert "processes of this farm differ" in log
    assert SECRET not in str(client.hgetall(redis_keys.PROCESSES)) + log


@pytest.mark.parametrize(("hours", "shown"), [(-48, "s ahead of this"), (1, "s behind this"), (0, "")])
def test_a_process_says_at_its_start_that_its_clock_is_off(
    client: redis.Redis, capsys: pytest.CaptureFixture[str], hours: int, shown: str
) -> None:
    with time_machine.travel(clock.now_us() / 1e6 + hours * 3600, tick=True):
        Peers(client, "webhook worker", Settings()).join()

    log = "".join(capsys.readouterr())
    assert shown in log
    assert ("timedatectl" in log) == bool(shown)


def test_settings_of_other_kinds_may_differ(client: redis.Redis) -> None:
    put(client, "api a:1", "api", safety="off", price_per_image=0.5)
    put(client, "worker a:2", "worker", safety="bundled")

    assert list(differences(alive(client))) == []


def test_a_process_that_is_gone_does_not_count(client: redis.Redis) -> None:
    put(client, "api a:1", "api", seconds_ago=GONE_SECONDS + 1, price_per_image=0.5)

    Peers(client, "api", Settings()).join()

    assert "api a:1" not in alive(client)
    assert not client.hexists(redis_keys.PROCESSES, "api a:1")
    leave(client)
    assert alive(client) == {}


def test_on_a_full_disk_a_process_starts_all_the_same(client: redis.Redis) -> None:
    def full(_: str) -> None:
        raise StoreDiskFull

    Peers(client, "api", Settings(), full).join()

    assert alive(client) == {}


@pytest.mark.parametrize(
    ("setting", "value"),
    [("maxmemory", "1"), ("min-replicas-to-write", "1")],
    ids=["its memory is full", "as with a full disk"],
)
def test_while_redis_refuses_writes_a_process_starts_all_the_same(
    client: redis.Redis, capsys: pytest.CaptureFixture[str], setting: str, value: str
) -> None:
    """A worker has loaded its weights then, which may have taken minutes."""
    put(client, "worker a:1", "worker", lease_seconds=60.0)
    before = str(client.config_get(setting)[setting])
    client.config_set(setting, value)
    try:
        Peers(client, "worker", Settings()).join()
    finally:
        client.config_set(setting, before)

    assert "processes of this farm differ" in "".join(capsys.readouterr())


def test_without_redis_a_process_starts_all_the_same() -> None:
    Peers(connect(f"redis://127.0.0.1:{free_port()}/0"), "worker", Settings()).join()
