"""Ids of another caller look like unknown ones: on every route with an id, in body, status, headers and cost."""

from __future__ import annotations

import hashlib
import hmac
import re
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.openapi.document import SECTIONS
from api.openapi.operation import Operation
from farm.auth.api_keys import ApiKeyStore
from farm.bootstrap import Farm
from farm.domain.job import Webhook
from tests.farms import wait_for
from tests.service.api.calls import UNKNOWN_ID
from tests.service.bulk.bulks import create, request, upload
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import new_job
from tests.service.jobstore.redis_commands import cost_of

#: Routes for which the id is no right of its own.
ASKED = [
    operation
    for section in SECTIONS
    for operation in section.operations
    if "{" in operation.path and not operation.is_open and "model_id" not in operation.path
]
NO_TICKET = "A" * 43
NO_KEY = "0" * 32 + "-upload-4000000000.png"
#: What no two answers have in common.
OF_EACH = ("Date", "X-Request-Id")


@dataclass(frozen=True, slots=True)
class Named:
    """An existing name, and one that does not exist."""

    other: str
    none: str


@pytest.fixture
def names(farm: Farm, keyed: FlaskClient, ada: dict[str, str]) -> dict[str, Named]:
    """Return what ada has of each kind, in the words of the paths: jobs of which a delivery waits, an upload that is
    open.
    """
    made = keyed.post("/fal/cdn/files/upload/multipart", headers=ada | {"Content-Type": "image/png"}).get_json()
    key = made["access_url"].rpartition("/")[2]
    job = farm.store.submit(new_job(webhook=Webhook("https://you.example/hook"))).id
    farm.store.cancel(job)
    file_id, batch_id = upload(keyed, request(1), headers=ada), create(keyed, request(1), headers=ada)
    return {
        "job_id": Named(job, UNKNOWN_ID),
        "request_id": Named(job, UNKNOWN_ID),
        "delivery_id": Named(f"{job}-2", f"{UNKNOWN_ID}-2"),
        "ticket_id": Named(made["uploadId"], NO_TICKET),
        "key": Named(key, NO_KEY),
        "number": Named("1", "1"),
        "worker_id": Named("w", "nobody"),
        "file_id": Named(file_id, f"file-{UNKNOWN_ID}"),
        "batch_id": Named(batch_id, f"batch_{UNKNOWN_ID}"),
    }


@pytest.mark.parametrize("operation", ASKED, ids=lambda operation: operation.name)
def test_an_object_of_another_caller_looks_like_an_unknown_one(
    keyed: FlaskClient, farm: Farm, bob: dict[str, str], names: dict[str, Named], operation: Operation
) -> None:
    """Both are refused with the same words, after the same number of commands to Redis."""
    others, unknown = ({name: getattr(both, kind) for name, both in names.items()} for kind in ("other", "none"))

    def ask(ids: dict[str, str]) -> TestResponse:
        return keyed.open(operation.path.format(**ids), method=operation.method, headers=bob, data=b"{}")

    theirs, none = ask(others), ask(unknown)

    assert theirs.status_code in (403, 404), theirs.text
    assert result(theirs, others) == result(none, unknown)
    assert cost_of(lambda: ask(others), farm.redis) == cost_of(lambda: ask(unknown), farm.redis)


def result(answer: TestResponse, ids: dict[str, str]) -> tuple[int, str, list[tuple[str, str]]]:
    """Return the whole answer, without the names that were asked for."""
    text = re.sub(r'"(requestId|timestamp)":"[^"]+"', "", answer.text)  # of each answer
    for name, value in sorted(ids.items(), key=lambda item: -len(item[1])):  # an id may contain another
        text = text.replace(value, name) if len(value) > 1 else text
    headers = [(name, value) for name, value in answer.headers if name not in (*OF_EACH, "Content-Length")]
    return answer.status_code, text, headers


def test_every_route_that_takes_an_id_is_asked() -> None:
    """The others take no id, or one that is all the right there is; a new one must be in one of the lists."""
    kinds = {part for operation in ASKED for part in operation.path.split("/") if part.startswith("{")}

    assert kinds >= {"{job_id}", "{request_id}", "{delivery_id}", "{ticket_id}", "{key}", "{number}"}
    assert len(ASKED) >= 18


def test_deleting_another_callers_predictions_looks_like_deleting_unknown_ones(
    keyed: FlaskClient, farm: Farm, bob: dict[str, str], names: dict[str, Named]
) -> None:
    answers = [
        keyed.post("/api/v3/predictions/delete", json={"ids": [name]}, headers=bob)
        for name in (names["job_id"].other, names["job_id"].none)
    ]

    assert answers[0].status_code == 200
    assert answers[0].get_json() == answers[1].get_json()
    assert jobs.record(farm.store, names["job_id"].other).caller == "ada"


def test_an_unknown_key_and_a_wrong_secret_cost_the_same_work(
    client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read, a digest, and a comparison of two texts of the same lengths."""
    callers = ApiKeyStore(client)
    key = callers.create("ada")
    done: list[tuple[str, int, int]] = []
    sha256, compare = hashlib.sha256, hmac.compare_digest

    def digest(content: bytes) -> Any:
        done.append(("sha256", len(content), 0))
        return sha256(content)

    def compared(one: str, other: str) -> bool:
        done.append(("compared", len(one), len(other)))
        return compare(one, other)

    monkeypatch.setattr(hashlib, "sha256", digest)
    monkeypatch.setattr(hmac, "compare_digest", compared)

    for wrong in (key[:-3] + "AAA", "farm_00000000_" + "a" * 43):
        done.clear()
        assert callers.identify(wrong) is None
        assert done == [("sha256", 43, 0), ("compared", 64, 64)]
        assert cost_of(partial(callers.identify, wrong), client) == {"hgetall": 1}


# Shares of what is scarce


def test_one_caller_takes_at_most_half_of_the_streams(
    keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    def follow(headers: dict[str, str]) -> TestResponse:
        return keyed.get("/farm/v1/events", headers=headers)

    adas = [follow(ada), follow(ada)]
    assert [stream.status_code for stream in adas] == [200, 200]

    assert follow(ada).status_code == 429
    with follow(bob) as bobs:
        assert bobs.status_code == 200
    for stream in adas:
        stream.close()
    with follow(ada) as again:
        assert again.status_code == 200


def test_one_caller_takes_at_most_half_of_the_memory_for_large_bodies(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    capacity = keyed.application.extensions["body_memory"]
    assert capacity.acquire("ada", capacity.free // 2)

    def send(headers: dict[str, str]) -> int:
        body = b'{"model": "srpo-image-to-image"' + b" " * 2**20 + b"}"
        return keyed.post(
            "/farm/v1/jobs", data=body, headers=headers | {"Content-Type": "application/json"}
        ).status_code

    assert send(ada) == 429
    assert send(bob) != 429


def test_one_caller_takes_at_most_half_of_the_places_for_calls_that_wait(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    def call(headers: dict[str, str]) -> int:
        # A client of its own: they are called from several threads.
        api = keyed.application.test_client()
        return api.post("/fal/run/fal-ai/flux/srpo", json={"prompt": "a fox"}, headers=headers).status_code

    def waiting() -> list[str]:
        return [job.id for job in farm.store.page(None, before_us=None, count=10) if not job.state.is_terminal]

    with ThreadPoolExecutor(3) as pool:
        adas = [pool.submit(call, ada) for _ in range(2)]
        wait_for(lambda: len(waiting()) == 2)
        assert call(ada) == 429
        bobs = pool.submit(call, bob)
        for job_id in wait_for(lambda: waiting() if len(waiting()) == 3 else None) or []:
            farm.store.cancel(job_id)

    assert 429 not in [call.result() for call in (*adas, bobs)]
