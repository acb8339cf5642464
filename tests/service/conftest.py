"""Fixtures of the tests that need Redis and no processes: job stores, clients of the API, workers in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from api.app import create_app
from farm.bootstrap import Farm, build
from farm.jobstore.connection import connect, connect_to_listen
from farm.jobstore.event_feed import EventFeed
from farm.jobstore.notifications import JobChanges
from farm.jobstore.store import JobStore
from farm.jobstore.tally import Tally
from farm.process import embedded_redis
from farm.service import Service
from farm.settings import Settings
from tests.farms import empty, wait_for
from tests.service.api.calls import bearer
from tests.service.api.openapi_conformance import Listener
from tests.service.bulk.bulks import BulkHarness, HarnessOpener
from tests.service.jobstore.jobs import BASE, FACTS, TERMS
from tests.service.workers.worker import Opened, WorkerHarness
from workers import bulk


@pytest.fixture(scope="session")
def redis_url(redis_dir: Path) -> str:
    """Return a Redis that has been up for longer than a lease: before, no job is reclaimed."""
    url = embedded_redis.address(redis_dir)
    assert url is not None
    with connect(url) as client:
        wait_for(lambda: client.info("server")["uptime_in_seconds"] >= TERMS.lease_seconds)
    return url


@pytest.fixture
def client(redis_url: str) -> Iterator[redis.Redis]:
    """Yield an empty Redis."""
    with connect(redis_url) as client:
        empty(client)
        yield client


@pytest.fixture
def store(client: redis.Redis) -> JobStore:
    return JobStore(client, TERMS)


@pytest.fixture(scope="session")
def parts(redis_url: str, redis_dir: Path) -> Farm:
    return build(Settings(lease_seconds=TERMS.lease_seconds, queue_limit=TERMS.queue_limit), redis_dir)


@pytest.fixture(scope="session")
def listening(redis_url: str) -> redis.Redis:
    return connect_to_listen(redis_url)


@pytest.fixture(scope="session")
def changes(listening: redis.Redis) -> JobChanges:
    return JobChanges(listening)


@pytest.fixture
def farm(parts: Farm, changes: JobChanges, listening: redis.Redis) -> Farm:
    """Return the parts of a farm on an empty Redis. Threads and connections are shared; anything stateful is new."""
    empty(parts.redis)
    service = Service(
        parts.store,
        stats=parts.stats,
        storage=parts.storage,
        wake_ups=parts.wake_ups,
        intake=parts.service._intake,
        changes=changes,
        feed=EventFeed(listening),
        outbound=parts.outbound,
    )
    return replace(parts, service=service, tally=Tally(parts.redis))


def patient_store(farm: Farm) -> JobStore:
    """Return a store whose workers may be silent for a minute: a busy machine may take longer than a lease."""
    return JobStore(farm.redis, replace(TERMS, lease_seconds=60))


@pytest.fixture
def open_api(farm: Farm) -> Iterator[Callable[..., FlaskClient]]:
    """Make a client of the API, with keys or without; a worker has announced `srpo`.

    Every answer must be as the API's document describes it.
    """
    listeners: list[Listener] = []

    def open_one(
        *,
        with_keys: bool = False,
        max_streams: int = 4,
        safety: str = "bundled",
        settings: Settings = farm.settings,
    ) -> FlaskClient:
        patient_store(farm).renew("w", FACTS | {"safety": safety}, [])
        own = replace(farm, settings=settings)
        app = create_app(own, base=BASE, with_keys=with_keys, max_streams=max_streams, max_held_calls=4)
        listeners.append(Listener(app))
        return app.test_client()

    yield open_one
    assert [wrong for listener in listeners for wrong in listener.wrong] == []


@pytest.fixture
def api(open_api: Callable[..., FlaskClient]) -> FlaskClient:
    """Return the API with keys off."""
    return open_api()


@pytest.fixture
def keyed(open_api: Callable[..., FlaskClient]) -> FlaskClient:
    """Return the API with keys on."""
    return open_api(with_keys=True)


@pytest.fixture
def ada(farm: Farm) -> dict[str, str]:
    return bearer(farm.callers.create("ada"))


@pytest.fixture
def bob(farm: Farm) -> dict[str, str]:
    return bearer(farm.callers.create("bob"))


@pytest.fixture
def admin(farm: Farm) -> dict[str, str]:
    return bearer(farm.callers.create("root", is_admin=True))


@pytest.fixture
def open_worker(farm: Farm, store: JobStore) -> Iterator[Opened]:
    """Open workers that are closed after the test."""
    opened: list[WorkerHarness] = []

    def open_one(**parts: Any) -> WorkerHarness:
        opened.append(WorkerHarness(farm, **{"store": store} | parts))
        opened[-1].open()
        return opened[-1]

    yield open_one
    for shop in opened:
        shop.close()


@pytest.fixture
def open_harness(farm: Farm, open_worker: Opened, monkeypatch: pytest.MonkeyPatch) -> Iterator[HarnessOpener]:
    """Open what runs bulks behind an API; pauses are short."""
    monkeypatch.setattr(bulk, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(bulk, "RETRY_SECONDS", 0.02)
    opened: list[BulkHarness] = []

    def open_one(api: FlaskClient) -> BulkHarness:
        opened.append(BulkHarness(farm, api, open_worker()))
        return opened[-1]

    yield open_one
    for harness in opened:
        harness.close()
