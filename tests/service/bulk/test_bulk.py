"""Batches from upload to output file, through the API, a background process and a worker."""

from __future__ import annotations

import base64
import json
import re
import threading
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from typing import Any

import pytest
from flask.testing import FlaskClient

from farm import clock
from farm.bootstrap import Farm
from farm.domain.limits import Limits
from farm.jobstore import redis_keys
from tests.farms import image_facts
from tests.images import data_uri, sample_image
from tests.service.api.calls import EDITS, bearer, openai_error, post_job
from tests.service.bulk.bulks import (
    BATCHES,
    FILES,
    BulkHarness,
    HarnessOpener,
    content,
    create,
    download,
    fetch,
    job_ids,
    post_batch,
    post_file,
    request,
    upload,
)
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import FACTS
from tests.service.workers.worker import Opened
from workers.bulk import MAX_BULKS_OF_ONE_CALLER, MAX_CONCURRENT_BULKS, BulkStep


def codes(lines: list[dict[str, Any]]) -> list[str | None]:
    """Return the error code of each line of an error file."""
    return [
        line["error"]["code"] if line["response"] is None else line["response"]["body"]["error"]["code"]
        for line in lines
    ]


def test_each_line_is_rendered_and_the_output_keeps_their_order(harness: BulkHarness, api: FlaskClient) -> None:
    batch_id = create(api, *(request(number, n=1 + number % 2) for number in range(12)), metadata={"night": "1"})
    assert harness.batch(batch_id)["status"] == "validating"

    batch = harness.end_of(batch_id)

    assert (batch["status"], batch["error_file_id"], batch["model"]) == ("completed", None, "srpo")
    assert batch["request_counts"] == {"total": 12, "completed": 12, "failed": 0}
    assert batch["metadata"] == {"night": "1"}
    assert openai_error(api.post(f"{BATCHES}/{batch_id}/cancel"), 409)["code"] == "batch_ended"
    reached = [batch[f"{state}_at"] for state in ("created", "in_progress", "finalizing", "completed", "expires")]
    assert None not in reached
    assert reached == sorted(reached)
    lines = harness.lines(batch["output_file_id"])
    assert [line["custom_id"] for line in lines] == [f"r{number}" for number in range(12)]
    for number, line in enumerate(lines):
        assert (line["error"], line["response"]["status_code"]) == (None, 200)
        images = line["response"]["body"]["data"]
        assert len(images) == 1 + number % 2
        for image in images:
            fetched = fetch(api, image["url"])
            assert image_facts(fetched) == ((256, 256), "PNG")
            assert base64.b64decode(image["b64_json"]) == fetched


def test_the_size_of_a_result_file_is_what_its_download_has(harness: BulkHarness, api: FlaskClient) -> None:
    batch = harness.end_of(
        create(api, request(1), request(2, model="flux/srpo", size=None, sync_mode=True), request(3, n=99))
    )

    for name in ("output_file_id", "error_file_id"):
        file = api.get(f"{FILES}/{batch[name]}").get_json()
        assert (file["bytes"], file["purpose"]) == (len(download(api, batch[name])), "batch_output")
        assert file["expires_at"] >= batch["expires_at"]


def test_a_line_has_the_dialect_of_its_model_and_the_format_it_asks_for(harness: BulkHarness, api: FlaskClient) -> None:
    small: dict[str, Any] = {"size": None, "image_size": {"width": 512, "height": 512}}
    batch = harness.end_of(
        create(
            api,
            request(1, response_format="url"),
            request(2, model="flux/srpo", **small),
            request(3, model="flux-1-srpo-text-to-image", output_format="b64_json"),
        )
    )

    plain, of_aimlapi, of_siraya = [line["response"] for line in harness.lines(batch["output_file_id"])]
    assert batch["model"] is None
    assert set(plain["body"]["data"][0]) == {"url"}
    assert (of_aimlapi["status_code"], set(of_aimlapi["body"]) >= {"images", "meta"}) == (201, True)
    assert set(of_siraya["body"]["data"][0]) == {"b64_json", "revised_prompt"}


def test_unknown_fields_of_lines_are_ignored_with_a_warning_where_the_operator_wants_that(
    farm: Farm, api: FlaskClient, open_worker: Opened
) -> None:
    lenient = replace(farm, settings=farm.settings.model_copy(update={"unknown_fields": "warn"}))
    lines = [
        request(1, loras=[]),
        request(2, model="flux/srpo", size=None, image_size={"width": 512, "height": 512, "depth": 3}),
        request(3, speed=3, n=99),
        request(4),
    ]

    with closing(BulkHarness(lenient, api, open_worker())) as harness:
        batch = harness.end_of(create(api, *lines))
        answers = [line["response"]["body"] for line in harness.lines(batch["output_file_id"])]
        (refused,) = harness.lines(batch["error_file_id"])

    assert [answer.get("warnings") for answer in answers] == [
        ["Unknown fields were ignored: loras."],
        ["Unknown fields were ignored: image_size.depth."],
        None,
    ]
    assert (refused["custom_id"], refused["response"]["body"]["error"]["param"]) == ("r3", "n")


def test_images_are_edited(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    farm.store.renew("w", FACTS | {"models": "srpo,srpo-image-to-image"}, [])
    image = data_uri(sample_image())
    lines = [request(1, url=EDITS, image=image, num_inference_steps=10), request(2, url=EDITS, num_inference_steps=10)]
    batch_id = create(api, *lines, endpoint=EDITS)

    batch = harness.end_of(batch_id)

    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (failed,) = harness.lines(batch["error_file_id"])
    assert (failed["custom_id"], failed["response"]["body"]["error"]["param"]) == ("r2", "image")


def test_bad_requests_are_in_the_error_file_and_the_good_lines_go_on(harness: BulkHarness, api: FlaskClient) -> None:
    lines = [
        request(1),
        request(2, n=99),
        request(3, model="no-such-model"),
        request(4),
        request(5, model="srpo-image-to-image"),
        request(6, speed=3),
    ]
    batch = harness.end_of(create(api, *lines))

    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 6, "completed": 2, "failed": 4})
    assert [line["custom_id"] for line in harness.lines(batch["output_file_id"])] == ["r1", "r4"]
    failed = harness.lines(batch["error_file_id"])
    assert [line["custom_id"] for line in failed] == ["r2", "r3", "r5", "r6"]
    assert [line["response"]["status_code"] for line in failed] == [400, 404, 400, 400]
    assert codes(failed) == ["less_than_equal", "model_not_found", "model_not_here", "extra_forbidden"]
    assert "no-such-model" in failed[1]["response"]["body"]["error"]["message"]


@pytest.mark.parametrize("model", ["\ud83d", "x" * 100_000], ids=["a lone surrogate", "a long text"])
def test_a_name_that_no_model_can_have_is_refused_in_its_line_and_not_kept(
    harness: BulkHarness, api: FlaskClient, farm: Farm, model: str
) -> None:
    batch = harness.end_of(create(api, request(1, model=model), request(2, model=model)))

    assert (batch["status"], batch["model"]) == ("completed", None)
    assert codes(harness.lines(batch["error_file_id"])) == ["model_not_found"] * 2
    assert (farm.redis.memory_usage(redis_keys.bulk(batch["id"])) or 0) < 4096


def test_the_error_of_a_line_has_its_first_problems_and_the_number_of_the_others(
    harness: BulkHarness, api: FlaskClient
) -> None:
    unknown: dict[str, Any] = {f"unknown{number}": 1 for number in range(90)}
    batch = harness.end_of(create(api, request(1, n=99, seed=-1, **unknown)))

    (refused,) = harness.lines(batch["error_file_id"])
    error = refused["response"]["body"]["error"]
    assert error["param"] == "n"
    assert "seed: " in error["message"]
    assert re.search(r"; and 8\d more$", error["message"])
    assert len(json.dumps(refused)) < 2000


@pytest.mark.parametrize(
    ("lines", "problems"),
    [
        ([b"%PDF-1.7", b"\xff\xfe"], [(1, "invalid_json_line", None), (2, "invalid_json_line", None)]),
        ([request(1), b'{"custom_id": ', request(2)], [(2, "invalid_json_line", None)]),
        ([b"[1, 2]"], [(1, "invalid_json_line", None)]),
        ([request(1), request(2), b"", request(1)], [(4, "duplicate_custom_id", "custom_id")]),
        ([request(1), request(2, url=EDITS)], [(2, "mismatched_endpoint", "url")]),
        ([request(1) | {"method": "GET"}], [(1, "invalid_method", "method")]),
        ([request(1) | {"body": "a fox"}], [(1, "invalid_body", "body")]),
        ([request(1) | {"custom_id": 7}], [(1, "invalid_custom_id", "custom_id")]),
        ([{"custom_id": "a", "method": "POST", "body": {}}], [(1, "missing_required_parameter", "url")]),
        ([request(1) | {"timeout": 3}], [(1, "unknown_parameter", "timeout")]),
        ([b"", b"  "], [(None, "empty_file", None)]),
        ([request(1) | {"custom_id": "a\ud83d"}] * 2, [(2, "duplicate_custom_id", "custom_id")]),
        ([request(1) | {"\ud83d": 1}], [(1, "unknown_parameter", "\ud83d")]),
        ([b'{"\\ud83d": 1, "\\ud83d": 2}'], [(1, "invalid_json_line", None)]),
    ],
)
def test_a_file_that_cannot_be_used_fails_with_line_numbers_and_reasons(
    harness: BulkHarness, api: FlaskClient, farm: Farm, lines: list[Any], problems: list[tuple[int, str, str]]
) -> None:
    batch = harness.end_of(create(api, *lines))

    assert (batch["status"], batch["output_file_id"], batch["failed_at"] is not None) == ("failed", None, True)
    errors = batch["errors"]["data"]
    assert [(error["line"], error["code"], error["param"]) for error in errors] == problems
    assert all(error["message"] for error in errors)
    assert job_ids(farm) == []


def test_too_long_a_line_and_too_many_lines_fail(
    harness: BulkHarness, api: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.bulk.lines.MAX_BULK_LINE", 1000)
    monkeypatch.setattr("farm.bulk.validation.MAX_BULK_LINES", 3)
    lines = [request(1), request(2, prompt="x" * 1000), request(3), request(4)]

    errors = harness.end_of(create(api, *lines))["errors"]["data"]

    assert [(error["line"], error["code"]) for error in errors] == [(2, "line_too_large"), (4, "too_many_requests")]


def test_a_cancelled_batch_has_the_results_that_there_were(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    batch_id = create(api, *map(request, range(8)))
    harness.until(lambda: len(job_ids(farm)) == 8, renders=False)
    done = jobs.take(farm.store, "w")
    for job in done:
        farm.store.complete(job, jobs.result(job))
    running = jobs.take(farm.store, "w2")
    (shown,) = api.get("/farm/v1/bulks").get_json()["bulks"]
    assert (shown["id"], shown["total"], shown["completed"], shown["failed"]) == (batch_id, 8, len(done), 0)
    left = (8 - len(done)) / shown["requests_per_minute"] * 60
    assert shown["seconds_left"] == pytest.approx(left, rel=0.05)

    cancelled = api.post(f"{BATCHES}/{batch_id}/cancel").get_json()
    assert cancelled["status"] == "cancelling"
    harness.until(lambda: all(jobs.record(farm.store, job.id).cancelling for job in running), renders=False)
    for job in running:
        farm.store.fail(job, "cancelled", "x")
    batch = harness.end_of(batch_id)

    assert (batch["status"], batch["cancelled_at"] is not None) == ("cancelled", True)
    assert batch["request_counts"] == {"total": 8, "completed": len(done), "failed": 8 - len(done)}
    assert [line["response"]["request_id"] for line in harness.lines(batch["output_file_id"])] == jobs.ids(done)
    assert codes(harness.lines(batch["error_file_id"])) == ["batch_cancelled"] * (8 - len(done))
    assert api.get("/farm/v1/bulks").get_json() == {"bulks": []}
    assert api.post(f"{BATCHES}/{batch_id}/cancel").get_json() == batch


def test_a_batch_cancelled_before_its_file_was_checked_has_no_jobs(
    harness: BulkHarness, api: FlaskClient, farm: Farm
) -> None:
    batch_id = create(api, request(1))
    api.post(f"{BATCHES}/{batch_id}/cancel")

    batch = harness.end_of(batch_id)

    assert (batch["status"], batch["error_file_id"], job_ids(farm)) == ("cancelled", None, [])


@pytest.fixture
def clock_off(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Return what sets this machine's clock forward, or back, by so many hours; Redis's own goes right."""
    now_us = clock.now_us
    return lambda hours: monkeypatch.setattr(clock, "now_us", lambda: now_us() + round(hours * 3.6e9))


@pytest.mark.parametrize("hours", [0, -48])
def test_a_batch_expires_at_the_end_of_its_window(
    harness: BulkHarness, api: FlaskClient, farm: Farm, clock_off: Callable[[float], None], hours: float
) -> None:
    clock_off(hours)
    batch_id = create(api, *map(request, range(3)), completion_window="1s")
    harness.until(lambda: len(job_ids(farm)) == 3, renders=False)

    batch = harness.until_in(batch_id, "expired", renders=False)

    assert batch["request_counts"] == {"total": 3, "completed": 0, "failed": 3}
    assert codes(harness.lines(batch["error_file_id"])) == ["batch_expired"] * 3
    assert all(jobs.record(farm.store, job_id).code == "cancelled" for job_id in job_ids(farm))


def test_a_batch_and_its_files_last_as_long_as_redis_says(
    harness: BulkHarness, api: FlaskClient, clock_off: Callable[[float], None]
) -> None:
    """A worker or an API whose clock is two days ahead ends nothing."""
    clock_off(48)

    batch = harness.end_of(create(api, request(1), output_expires_after={"anchor": "created_at", "seconds": 3600}))

    assert batch["status"] == "completed"
    assert [line["custom_id"] for line in harness.lines(batch["output_file_id"])] == ["r1"]


def test_an_urgent_job_goes_before_every_line(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    create(api, *map(request, range(9)))
    harness.until(lambda: len(job_ids(farm)) == 9, renders=False)

    urgent = post_job(api, num_images=4).get_json()["id"]

    assert jobs.ids(jobs.take(farm.store, "w")) == [urgent]


def test_lines_that_are_late_for_their_window_are_served_as_single_jobs(
    harness: BulkHarness, api: FlaskClient, farm: Farm
) -> None:
    create(api, *map(request, range(3)), completion_window="8s")
    harness.until(lambda: len(job_ids(farm)) == 3, renders=False)
    assert {jobs.record(farm.store, job_id).priority for job_id in job_ids(farm)} == {"bulk"}

    harness.until(lambda: farm.redis.zcard(redis_keys.queue("srpo", "normal")) == 3, renders=False)

    assert {jobs.record(farm.store, job_id).priority for job_id in job_ids(farm)} == {"normal"}
    assert farm.redis.zcard(redis_keys.queue("srpo", "bulk")) == 0
    lines = set(job_ids(farm))
    post_job(api, priority="low")
    assert jobs.take(farm.store, "w")[0].id in lines


def test_lines_leave_half_of_the_queue_to_the_callers_single_jobs(
    open_harness: HarnessOpener, keyed: FlaskClient, farm: Farm
) -> None:
    ada = bearer(farm.callers.create("ada", limits=Limits(waiting=6)))
    harness = open_harness(keyed)
    batch_id = create(keyed, *map(request, range(10)), headers=ada)
    harness.until(lambda: len(job_ids(farm)) == 3, renders=False)
    for _ in range(5):
        harness.until(lambda: True, renders=False)

    assert [post_job(keyed, headers=ada).status_code for _ in range(4)] == [202, 202, 202, 429]
    assert len(job_ids(farm)) == 6
    assert harness.end_of(batch_id, ada)["request_counts"]["completed"] == 10


def test_lines_count_against_the_images_of_the_day(open_harness: HarnessOpener, keyed: FlaskClient, farm: Farm) -> None:
    ada = bearer(farm.callers.create("ada", limits=Limits(images_per_day=3)))
    harness = open_harness(keyed)
    batch_id = create(keyed, *map(request, range(5)), headers=ada)
    harness.until(lambda: harness.batch(batch_id, ada)["request_counts"]["completed"] == 3)

    assert post_job(keyed, headers=ada).status_code == 429
    assert harness.batch(batch_id, ada)["status"] == "in_progress"
    keyed.post(f"{BATCHES}/{batch_id}/cancel", headers=ada)
    assert harness.end_of(batch_id, ada)["request_counts"] == {"total": 5, "completed": 3, "failed": 2}


def test_lines_count_against_the_submits_of_a_minute(
    open_harness: HarnessOpener, keyed: FlaskClient, farm: Farm
) -> None:
    ada = bearer(farm.callers.create("ada", limits=Limits(rate=3)))
    harness = open_harness(keyed)
    batch_id = create(keyed, *map(request, range(5)), headers=ada)
    harness.until(lambda: harness.batch(batch_id, ada)["request_counts"]["completed"] == 3)

    refused = post_job(keyed, headers=ada)
    assert (refused.status_code, refused.get_json()["code"]) == (429, "rate_limited")
    assert harness.batch(batch_id, ada)["status"] == "in_progress"


def test_a_bulk_has_a_bounded_number_of_open_jobs(
    harness: BulkHarness, api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.bulk.MAX_OPEN_JOBS", 3)
    batch_id = create(api, *map(request, range(7)))
    harness.until(lambda: len(job_ids(farm)) == 3, renders=False)
    for _ in range(5):
        harness.until(lambda: True, renders=False)

    assert len(job_ids(farm)) == 3
    assert harness.end_of(batch_id)["request_counts"] == {"total": 7, "completed": 7, "failed": 0}


def test_batches_and_files_are_private(
    open_harness: HarnessOpener, keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str]
) -> None:
    harness = open_harness(keyed)
    batch_id = create(keyed, request(1), headers=ada)
    seen = [keyed.get("/farm/v1/bulks", headers=headers).get_json()["bulks"] for headers in (ada, bob)]
    assert [[bulk["id"] for bulk in bulks] for bulks in seen] == [[batch_id], []]
    batch = harness.end_of(batch_id, ada)
    file_id = batch["output_file_id"]

    for method, path in [
        ("GET", f"{BATCHES}/{batch_id}"),
        ("POST", f"{BATCHES}/{batch_id}/cancel"),
        ("GET", f"{BATCHES}?after={batch_id}"),
        ("GET", f"{FILES}/{file_id}"),
        ("GET", f"{FILES}/{file_id}/content"),
        ("DELETE", f"{FILES}/{file_id}"),
        ("GET", f"{FILES}?after={file_id}"),
    ]:
        refused = openai_error(keyed.open(path, method=method, headers=bob), 404)
        unknown = openai_error(
            keyed.open(path.replace(batch_id, "batch_x").replace(file_id, "file-x"), method=method, headers=bob), 404
        )
        assert refused["message"].replace(batch_id, "*").replace(file_id, "*") == unknown["message"].replace(
            "batch_x", "*"
        ).replace("file-x", "*")
    assert openai_error(post_batch(keyed, batch["input_file_id"], bob), 400)["param"] == "input_file_id"
    assert keyed.get(FILES, headers=bob).get_json()["data"] == keyed.get(BATCHES, headers=bob).get_json()["data"] == []
    assert keyed.get(f"{FILES}/{file_id}").status_code == 401


def test_batches_are_listed_page_by_page_newest_first(api: FlaskClient) -> None:
    file_id = upload(api, request(1))
    ids = [post_batch(api, file_id).get_json()["id"] for _ in range(3)]

    first = api.get(f"{BATCHES}?limit=2").get_json()
    second = api.get(f"{BATCHES}?limit=2&after={first['last_id']}").get_json()

    assert [batch["id"] for batch in (*first["data"], *second["data"])] == ids[::-1]
    assert (first["has_more"], second["has_more"], first["first_id"]) == (True, False, ids[2])


def test_files_are_listed_in_order_by_purpose_and_deleted(harness: BulkHarness, api: FlaskClient) -> None:
    older, newer = upload(api, request(1)), upload(api, request(2))
    harness.end_of(post_batch(api, newer).get_json()["id"])

    def listed(query: str) -> list[str]:
        return [file["id"] for file in api.get(f"{FILES}?{query}").get_json()["data"]]

    assert listed("purpose=batch") == [newer, older]
    assert listed("order=asc&limit=1") == [older]
    assert listed(f"order=asc&purpose=batch&after={older}") == [newer]
    assert len(listed("purpose=batch_output")) == 1
    assert api.delete(f"{FILES}/{older}").get_json() == {"id": older, "object": "file", "deleted": True}
    assert listed("purpose=batch") == [newer]
    assert listed(f"order=asc&purpose=batch&after={older}") == [newer]
    openai_error(api.get(f"{FILES}/{older}"), 404)


def test_a_file_that_is_deleted_while_its_batch_runs_is_read_to_its_end(harness: BulkHarness, api: FlaskClient) -> None:
    file_id = upload(api, *map(request, range(3)))
    batch_id = post_batch(api, file_id).get_json()["id"]
    api.delete(f"{FILES}/{file_id}")

    assert harness.end_of(batch_id)["request_counts"]["completed"] == 3
    assert openai_error(post_batch(api, file_id), 400)["code"] == "file_not_found"


def test_an_upload_has_its_purpose_and_file_in_any_order(api: FlaskClient) -> None:
    file = content(request(1))
    boundary = "b"

    def part(name: str, value: bytes, more: str = "") -> bytes:
        return f'--{boundary}\r\nContent-Disposition: form-data; name="{name}"{more}\r\n\r\n'.encode() + value + b"\r\n"

    parts = [
        part("file", file, '; filename="häuser.jsonl"'),
        part("purpose", b"batch"),
        part("expires_after[anchor]", b"created_at"),
        part("expires_after[seconds]", b"7200"),
    ]
    for body in (parts, parts[::-1]):
        response = api.post(
            FILES,
            data=b"".join(body) + f"--{boundary}--\r\n".encode(),
            content_type=f"multipart/form-data; boundary={boundary}",
        )
        made = response.get_json()
        assert (made["filename"], made["bytes"], made["purpose"]) == ("häuser.jsonl", len(file), "batch")
        assert made["expires_at"] - made["created_at"] == 7200
        assert download(api, made["id"]) == file


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"purpose": "fine-tune"}, "purpose"),
        ({"purpose": None}, "purpose"),
        ({"file": "a text"}, "file"),
        ({"expires_after[anchor]": "created_at", "expires_after[seconds]": "60"}, "expires_after.seconds"),
        ({"colour": "red"}, "colour"),
    ],
)
def test_an_upload_is_refused_by_the_name_of_what_is_wrong(
    api: FlaskClient, fields: dict[str, Any], param: str
) -> None:
    response = post_file(api, content(request(1)), **fields)

    assert openai_error(response, 400)["param"] == param
    assert api.get(FILES).get_json()["data"] == []


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"endpoint": "/v1/chat/completions"}, "endpoint"),
        ({"completion_window": "soon"}, "completion_window"),
        ({"completion_window": "15d"}, "completion_window"),
        ({"metadata": {"a": 1}}, "metadata.a"),
        ({"metadata": {str(number): "" for number in range(17)}}, "metadata"),
        ({"webhook_url": "http://127.0.0.1/hook"}, "webhook_url"),
        ({"input_file_id": "file-unknown"}, "input_file_id"),
        ({"input_file_id": "file-\ud83d"}, "input_file_id"),
        ({"metadata": {"a": "x" * 513}}, "metadata.a"),
        ({"priority": "low"}, "priority"),
    ],
)
def test_a_batch_is_refused_by_the_name_of_what_is_wrong(api: FlaskClient, fields: dict[str, Any], param: str) -> None:
    response = post_batch(api, upload(api, request(1)), **fields)

    assert openai_error(response, 400)["param"] == param


def test_the_same_key_and_body_is_the_same_batch(api: FlaskClient) -> None:
    file_id = upload(api, request(1))
    ids = {post_batch(api, file_id, {"Idempotency-Key": "k"}).get_json()["id"] for _ in range(3)}

    assert len(ids) == 1
    openai_error(post_batch(api, file_id, {"Idempotency-Key": "k"}, completion_window="1h"), 422)


def test_a_line_whose_job_was_deleted_has_an_error(harness: BulkHarness, api: FlaskClient, farm: Farm) -> None:
    batch_id = create(api, *map(request, range(2)))
    harness.until(lambda: len(job_ids(farm)) == 2, renders=False)
    taken = [jobs.take_one(farm.store, worker) for worker in ("w", "w2")]
    first, second = sorted(taken, key=lambda job: job.request.prompt)
    farm.store.complete(first, jobs.result(first))
    api.delete(f"/farm/v1/jobs/{first.id}")
    farm.store.complete(second, jobs.result(second))

    batch = harness.end_of(batch_id)

    assert batch["request_counts"] == {"total": 2, "completed": 1, "failed": 1}
    (failed,) = harness.lines(batch["error_file_id"])
    assert (failed["custom_id"], failed["response"]["status_code"]) == ("r0", 404)


def test_an_image_that_was_deleted_is_null_in_the_output(harness: BulkHarness, api: FlaskClient) -> None:
    batch = harness.end_of(create(api, *map(request, range(2))))
    first, _ = harness.lines(batch["output_file_id"])
    api.delete(f"/farm/v1/jobs/{first['response']['request_id']}")

    gone, kept = [json.loads(line) for line in download(api, batch["output_file_id"]).splitlines()]

    assert gone["response"]["body"]["data"][0]["b64_json"] is None
    assert kept["response"]["body"]["data"][0]["b64_json"]


def test_the_batches_of_one_caller_do_not_delay_another_callers(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    """Workers take a batch of each caller in turn, also of one whose batch came last."""
    owners = {create(keyed, request(number), headers=ada): "ada" for number in range(3)}
    owners[create(keyed, request(9), headers=bob)] = "bob"

    leased = [farm.bulks.claim(30) for _ in range(4)]

    assert [owners[each.id] for each in leased if each] == ["ada", "bob", "ada", "ada"]


def test_a_caller_with_many_batches_leaves_a_thread_to_others(
    open_harness: HarnessOpener,
    keyed: FlaskClient,
    ada: dict[str, str],
    bob: dict[str, str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """The others' batches come when hers, which take long, are in progress."""
    take, goes_on, held = BulkStep.take, threading.Event(), set[str]()

    def slow(step: BulkStep) -> float | None:
        if step._bulk.caller == "ada":
            held.add(step._bulk.id)
            goes_on.wait()
        return take(step)

    monkeypatch.setattr(BulkStep, "take", slow)
    harness = open_harness(keyed)
    hers = [create(keyed, request(number), headers=ada) for number in range(MAX_CONCURRENT_BULKS + 1)]
    try:
        harness.until(lambda: len(held) >= MAX_BULKS_OF_ONE_CALLER)
        his = harness.end_of(create(keyed, request(9), headers=bob), bob)
        assert (his["status"], len(held)) == ("completed", MAX_BULKS_OF_ONE_CALLER)
    finally:
        goes_on.set()
    assert {harness.end_of(batch_id, ada)["status"] for batch_id in hers} == {"completed"}


def test_a_lost_lease_does_not_count_for_its_caller(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    first = create(keyed, request(1), headers=ada)
    farm.bulks.claim(30)
    farm.redis.zadd(redis_keys.PREFIX + "bulk_leases", {first: 1})
    create(keyed, request(2), headers=ada)
    create(keyed, request(3), headers=bob)

    leased = farm.bulks.claim(30)

    assert leased
    assert leased.bulk.caller == "ada"


def test_one_caller_has_so_many_batches_and_files(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.bulk.store.MAX_BULKS_PER_CALLER", 2)
    monkeypatch.setattr("farm.bulk.files.MAX_FILES_PER_CALLER", 2)
    file_ids = [upload(keyed, request(number), headers=ada) for number in range(2)]
    for file_id in file_ids:
        assert post_batch(keyed, file_id, ada).status_code == 200

    refused = [post_batch(keyed, file_ids[0], ada), post_file(keyed, content(request(3)), ada)]

    assert [(each.status_code, each.get_json()["error"]["code"]) for each in refused] == [
        (429, "rate_limit_exceeded")
    ] * 2
    assert all(each.headers["Retry-After"] == "60" for each in refused)
    assert upload(keyed, request(4), headers=bob)
    farm.redis.delete(redis_keys.bulk_file(file_ids[0]))  # as if it had expired
    assert upload(keyed, request(5), headers=ada)


def test_one_caller_creates_so_many_batches_in_a_minute(
    keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("farm.bulk.store.MAX_BULKS_PER_MINUTE", 2)
    file_id = upload(keyed, request(1), headers=ada)
    keys = [ada | {"Idempotency-Key": str(number)} for number in range(3)]
    created = [post_batch(keyed, file_id, headers) for headers in (keys[0], keys[0], keys[1])]

    refused = post_batch(keyed, file_id, keys[2])

    assert [each.status_code for each in created] == [200] * 3
    assert (openai_error(refused, 429)["code"], 0 < int(refused.headers["Retry-After"]) <= 30) == (
        "rate_limit_exceeded",
        True,
    )
    assert post_batch(keyed, file_id, keys[0]).get_json() == created[0].get_json()
    assert post_job(keyed, headers=ada).status_code == 202
    assert create(keyed, request(2), headers=bob)


@pytest.mark.parametrize("order", ["asc", "desc"])
def test_a_page_of_files_reads_no_more_records_than_it_needs(
    api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch, order: str
) -> None:
    monkeypatch.setattr("farm.bulk.files._CHUNK", 2)
    made = [upload(api, request(number)) for number in range(5)]
    before = int(farm.redis.info("commandstats")["cmdstat_hgetall"]["calls"])

    page = api.get(f"{FILES}?limit=1&order={order}").get_json()

    assert int(farm.redis.info("commandstats")["cmdstat_hgetall"]["calls"]) - before <= 4
    assert (page["data"][0]["id"], page["has_more"]) == (made[0] if order == "asc" else made[-1], True)
    everything = api.get(f"{FILES}?order={order}").get_json()["data"]
    assert [file["id"] for file in everything] == (made if order == "asc" else made[::-1])


@pytest.mark.parametrize("order", ["asc", "desc"])
@pytest.mark.parametrize("deletes", [False, True])
def test_pages_of_one_file_show_both_results_of_a_batch(
    api: FlaskClient, harness: BulkHarness, monkeypatch: pytest.MonkeyPatch, *, order: str, deletes: bool
) -> None:
    """They are created at the same time."""
    monkeypatch.setattr("farm.bulk.files._CHUNK", 1)
    batch = harness.end_of(create(api, request(1), request(2, size="0")))
    everything = [file["id"] for file in api.get(f"{FILES}?order={order}").get_json()["data"]]

    seen, page = [], api.get(f"{FILES}?limit=1&order={order}").get_json()
    while page["data"]:
        (file,) = page["data"]
        seen.append(file["id"])
        if deletes:
            api.delete(f"{FILES}/{file['id']}")
        page = api.get(f"{FILES}?limit=1&order={order}&after={file['id']}").get_json()

    assert seen == everything
    assert {batch["input_file_id"], batch["output_file_id"], batch["error_file_id"]} == set(seen)
