"""`POST /farm/v1/enhance`: answered by a background worker, within the caller's limits, or refused in time."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.bootstrap import Farm
from farm.concurrency.background_thread import BackgroundThread
from farm.domain.limits import Limits
from farm.jobstore import enhancements, redis_keys
from tests.farms import wait_for
from tests.service.api.calls import problem, submit
from workers.enhancer import EnhancerFailed, Interrupted, Template
from workers.enhancing import EnhancementWorker

FOX = {"model": "srpo", "prompt": "a red fox"}


def enhance(api: FlaskClient, body: Any = FOX, **headers: str) -> TestResponse:
    return api.post("/farm/v1/enhance", json=body, headers=headers)


@pytest.fixture
def work(farm: Farm) -> Iterator[Callable[[Any], BackgroundThread]]:
    """Start background workers with this enhancer, which are stopped after the test."""
    started: list[BackgroundThread] = []

    def start(enhancer: Any) -> BackgroundThread:
        worker = EnhancementWorker(farm.enhancements, enhancer)
        started.append(BackgroundThread("enhancer", worker.work, pause=lambda: 0.01))
        started[-1].start()
        return started[-1]

    yield start
    for thread in started:
        thread.close()


def test_the_answer_is_what_a_job_would_render(
    api: FlaskClient, farm: Farm, work: Callable[[Any], BackgroundThread]
) -> None:
    work(Template())

    answer = enhance(api).get_json()

    assert answer == {
        "prompt": Template().rewrite("a red fox", "srpo"),
        "original_prompt": "a red fox",
        "warnings": [],
    }
    assert len(answer["prompt"]) > len("a red fox")
    assert farm.redis.keys(f"{redis_keys.PREFIX}enhance*") == []


class Failing(Template):
    """Says that it cannot."""

    def rewrite(self, prompt: str, model: str) -> str:
        raise EnhancerFailed("The enhancer took too long.")


def test_a_prompt_that_is_not_enhanced_comes_back_with_the_reason(
    api: FlaskClient, work: Callable[[Any], BackgroundThread]
) -> None:
    work(Failing())

    answer = enhance(api).get_json()

    assert answer["prompt"] == "a red fox"
    assert answer["warnings"] == ["The prompt was not enhanced: The enhancer took too long."]


class Draining(Template):
    """Drains when it is asked."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def rewrite(self, prompt: str, model: str) -> str:
        self.asked.set()
        raise Interrupted


def test_another_worker_answers_for_one_that_drains(api: FlaskClient, work: Callable[[Any], BackgroundThread]) -> None:
    draining = Draining()
    first = work(draining)
    with ThreadPoolExecutor() as pool:
        answer = pool.submit(enhance, api)
        assert draining.asked.wait(10)
        first.close()
        work(Template())
        assert answer.result().status_code == 200


def test_without_a_worker_it_is_refused_in_time_and_the_question_is_withdrawn(
    api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(enhancements, "ANSWER_SECONDS", 0.05)
    monkeypatch.setattr(enhancements, "_LOOK_SECONDS", 0.05)

    refused = enhance(api)

    assert problem(refused, 503)["code"] == "enhancer_unavailable"
    assert int(refused.headers["Retry-After"]) > 0
    assert not farm.redis.exists(redis_keys.ENHANCEMENTS)


def test_a_prompt_that_cannot_be_enhanced_is_refused_by_name(keyed: FlaskClient, ada: dict[str, str]) -> None:
    problem(enhance(keyed), 401)
    problem(enhance(keyed, {"model": "nothing", "prompt": "x"}, **ada), 404)
    problem(enhance(keyed, {"model": "kontext", "prompt": "x"}, **ada), 400)
    for body, field in (
        ({"prompt": ""}, "prompt"),
        ({"prompt": "x" * 4001}, "prompt"),
        ({"prompt": "x", "seed": 1}, "seed"),
    ):
        refused = problem(enhance(keyed, body, **ada), 422)
        assert [error["field"] for error in refused["errors"]] == [field]


def test_enhancing_a_prompt_counts_as_a_submit(
    keyed: FlaskClient, farm: Farm, work: Callable[[Any], BackgroundThread]
) -> None:
    work(Template())
    key = {"Authorization": f"Bearer {farm.callers.create('eve', limits=Limits(rate=2))}"}
    submit(keyed, headers=key)
    assert enhance(keyed, **key).status_code == 200

    refused = enhance(keyed, **key)

    assert problem(refused, 429)["code"] == "rate_limited"


def test_a_caller_may_not_have_many_prompts_enhanced_at_once(
    api: FlaskClient, farm: Farm, work: Callable[[Any], BackgroundThread], monkeypatch: pytest.MonkeyPatch
) -> None:
    with ThreadPoolExecutor(8) as pool:
        waiting = [pool.submit(enhance, api) for _ in range(8)]
        wait_for(lambda: farm.redis.llen(redis_keys.ENHANCEMENTS) == 8, what="eight questions")

        assert problem(enhance(api), 429)["code"] == "concurrent_requests_limit"

        work(Template())
        assert {each.result().status_code for each in waiting} == {200}
