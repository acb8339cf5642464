"""Bulks for tests: files of requests, and a background process and a render worker that work on them."""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from contextlib import closing
from typing import Any, cast

from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.bootstrap import Farm
from farm.bulk.files import BulkFiles
from farm.bulk.results import Results
from farm.domain.bulk import BulkState
from farm.jobstore import redis_keys
from farm.ssrf_safe_http import SsrfSafeClient
from farm.storage.storage import Storage
from tests.farms import wait_for
from tests.service.api.calls import GENERATIONS
from tests.service.jobstore.jobs import BASE
from tests.service.workers.worker import WorkerHarness
from workers.bulk import BulkParts, BulkRunner
from workers.enhancer import Template
from workers.preparing import Preparer

FILES, BATCHES = "/v1/files", "/v1/batches"


def request(number: int | str, *, url: str = GENERATIONS, **body: Any) -> dict[str, Any]:
    """Return a line for a small image."""
    fields = {"model": "srpo", "prompt": f"fox {number}", "size": "256x256", "num_inference_steps": 1} | body
    return {"custom_id": f"r{number}", "method": "POST", "url": url, "body": fields}


def content(*lines: dict[str, Any] | bytes) -> bytes:
    """Return lines as a file."""
    return b"".join((line if isinstance(line, bytes) else json.dumps(line).encode()) + b"\n" for line in lines)


def post_file(api: FlaskClient, sent: bytes, /, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    data = {"purpose": "batch", "file": (io.BytesIO(sent), "requests.jsonl")} | fields
    return api.post(FILES, data=data, headers=headers, content_type="multipart/form-data")


def upload(api: FlaskClient, *lines: dict[str, Any] | bytes, headers: dict[str, str] | None = None) -> str:
    """Upload lines as a file, and return its id."""
    response = post_file(api, content(*lines), headers)
    assert response.status_code == 200, response.text
    file_id: str = response.get_json()["id"]
    return file_id


def post_batch(api: FlaskClient, file_id: str, headers: dict[str, str] | None = None, **fields: Any) -> TestResponse:
    body = {"input_file_id": file_id, "endpoint": GENERATIONS, "completion_window": "24h"} | fields
    return api.post(BATCHES, json=body, headers=headers)


def create(
    api: FlaskClient, *lines: dict[str, Any] | bytes, headers: dict[str, str] | None = None, **fields: Any
) -> str:
    """Create a batch of these lines, and return its id."""
    response = post_batch(api, upload(api, *lines, headers=headers), headers, **fields)
    assert response.status_code == 200, response.text
    batch_id: str = response.get_json()["id"]
    return batch_id


def download(api: FlaskClient, file_id: str, headers: dict[str, str] | None = None) -> bytes:
    """Return the content of a file."""
    return fetch(api, f"{FILES}/{file_id}/content", headers)


def fetch(api: FlaskClient, path: str, headers: dict[str, str] | None = None) -> bytes:
    """Return what is at a path of the API."""
    response = api.get(path.removeprefix(BASE), headers=headers)
    with closing(response):
        assert response.status_code == 200, response.text
        return bytes(response.data)


def job_ids(farm: Farm) -> list[str]:
    """Return the ids of all jobs, oldest first."""
    return cast(list[str], farm.redis.zrange(redis_keys.JOBS, 0, -1))


class BulkHarness:
    """One background process that runs bulks, and one render worker."""

    def __init__(self, farm: Farm, api: FlaskClient, worker: WorkerHarness) -> None:
        self.farm = farm
        self.api = api
        self.worker = worker
        self.runner = self.open_runner()
        self.preparer = Preparer(
            farm.store,
            storage=farm.storage,
            outbound=SsrfSafeClient(frozenset()),
            enhancer=Template(),
            wake_ups=farm.wake_ups,
            lease_seconds=30,
        )

    def open_runner(self, storage: Storage | None = None, *, lease_seconds: float = 30) -> BulkRunner:
        """Return a runner, as a new process has it."""
        farm = self.farm
        links = lambda bulk: farm.links(bulk.base or BASE)  # noqa: E731
        parts = BulkParts(
            farm.bulks,
            BulkFiles(farm.redis, storage, keep_seconds=3600) if storage else farm.bulk_files,
            Results(farm.store, farm.bulks, links=links, default_format="both"),
            farm.store,
            farm.service,
            farm.image_calls,
            storage or farm.storage,
            farm.uploads,
            farm.settings.queue_limit,
        )
        return BulkRunner(parts, lease_seconds=lease_seconds)

    def batch(self, batch_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        response = self.api.get(f"{BATCHES}/{batch_id}", headers=headers)
        assert response.status_code == 200, response.text
        found: dict[str, Any] = response.get_json()
        return found

    def until(self, condition: Callable[[], Any], *, renders: bool = True) -> None:
        """Work until the condition holds."""

        def look() -> bool:
            self.runner.work()
            self.preparer.work()
            if renders:
                self.worker.work()
            return bool(condition())

        wait_for(look, seconds=60)

    def until_in(self, batch_id: str, *states: str, renders: bool = True, headers: Any = None) -> dict[str, Any]:
        """Work until the batch is in one of these states, and return it."""
        self.until(lambda: self.batch(batch_id, headers)["status"] in states, renders=renders)
        return self.batch(batch_id, headers)

    def end_of(self, batch_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
        """Work until the batch has ended, and return it."""
        ends = [state for state in BulkState if state.is_terminal]
        return self.until_in(batch_id, *ends, headers=headers)

    def close(self) -> None:
        self.runner.close()
        self.preparer.close()

    def lines(self, file_id: str | None, headers: dict[str, str] | None = None) -> list[dict[str, Any]]:
        """Return the lines of a result file; none if there is no file."""
        if file_id is None:
            return []
        return [json.loads(line) for line in download(self.api, file_id, headers).splitlines()]


#: Opens a harness behind an API.
HarnessOpener = Callable[[FlaskClient], BulkHarness]
