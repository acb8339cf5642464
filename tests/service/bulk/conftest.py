"""Fixture: a farm with a background process and a worker in this process."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from tests.service.bulk.bulks import BulkHarness, HarnessOpener


@pytest.fixture
def harness(open_harness: HarnessOpener, api: FlaskClient) -> BulkHarness:
    return open_harness(api)
