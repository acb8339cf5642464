"""Fixtures: a farm with a background process and a worker in this process."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from tests.service.bulk.bulks import BulkHarness
from tests.service.workers.worker import Opened
from workers import bulk


@pytest.fixture
def open_harness(
    farm: Farm, open_worker: Opened, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[FlaskClient], BulkHarness]]:
    """Open a harness behind an API; pauses are short."""
    monkeypatch.setattr(bulk, "LOOK_SECONDS", 0.02)
    monkeypatch.setattr(bulk, "RETRY_SECONDS", 0.02)
    opened: list[BulkHarness] = []

    def open_one(api: FlaskClient) -> BulkHarness:
        opened.append(BulkHarness(farm, api, open_worker()))
        return opened[-1]

    yield open_one
    for harness in opened:
        harness.close()


@pytest.fixture
def harness(open_harness: Callable[[FlaskClient], BulkHarness], api: FlaskClient) -> BulkHarness:
    return open_harness(api)
