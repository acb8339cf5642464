"""fal's dialect: each field's effect or refusal, its states, outputs, failures and refusals."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest

from farm.dialects import fal
from farm.dialects.fields import UNKNOWN_PARAMETER, SrpoFields
from farm.errors import (
    FarmError,
    IdempotencyConflict,
    InvalidRequest,
    NotFound,
    NotReady,
    Problem,
    QueueFull,
    StorageError,
    StorageUnavailable,
    StoreUnavailable,
    TooManyHeld,
    Unauthorized,
)
from farm.job import Job, Order, State
from farm.request import Request
from tests.unit import golden
from tests.unit.samples import A_DUE, BASE, CREATED_US, JOB_ID, LINKS, a_job, a_request, a_result

ENDPOINT = "fal-ai/flux/srpo"
QUEUE = f"{BASE}/fal/queue"
URL = f"{QUEUE}/fal-ai/flux/requests/{JOB_ID}"
SPARE = 1_234_567
DEFAULT = Request(model="srpo", prompt="a fox", width=1024, height=768, steps=28, guidance=4.5, seed=SPARE)
PAGE = golden.load("fal-flux-srpo")
QUEUE_PAGE = golden.load("fal-queue")
JSON_KINDS = {"integer": int, "string": str, "array": list, "object": dict}
SEEN_US = CREATED_US + 2_000_000


def read(**fields: Any) -> Order:
    return fal.read({"prompt": "a fox"} | fields, endpoint=ENDPOINT, model="srpo", spare_seed=SPARE)


def refused(**fields: Any) -> list[Problem]:
    """What is wrong with these fields."""
    with pytest.raises(InvalidRequest) as caught:
        read(**fields)
    return caught.value.problems


def job(state: State = State.CREATED, **changes: Any) -> Job:
    return a_job(state, **({"endpoint": ENDPOINT, "dialect": "fal"} | changes))


def size(width: int, height: int) -> dict[str, int]:
    return {"width": width, "height": height}


#: field, what is sent, what changes in the request.
TAKEN: list[tuple[str, Any, dict[str, Any]]] = [
    ("prompt", "🦊", {"prompt": "🦊"}),
    ("prompt", "a" * 4000, {"prompt": "a" * 4000}),
    ("image_size", "square_hd", size(1024, 1024)),
    ("image_size", "square", size(512, 512)),
    ("image_size", "portrait_4_3", size(768, 1024)),
    ("image_size", "portrait_16_9", size(576, 1024)),
    ("image_size", "landscape_4_3", {}),
    ("image_size", "landscape_16_9", size(1024, 576)),
    ("image_size", size(256, 2560), size(256, 2560)),
    ("image_size", size(2560, 1080), size(2560, 1080)),
    ("image_size", {"width": 300}, size(300, 512)),
    ("image_size", {"height": 300}, size(512, 300)),
    ("image_size", {}, size(512, 512)),
    ("num_inference_steps", 1, {"steps": 1}),
    ("num_inference_steps", 50.0, {"steps": 50}),
    ("seed", 0, {"seed": 0}),
    ("seed", 2**32 - 1, {"seed": 2**32 - 1}),
    ("seed", None, {}),
    ("guidance_scale", 1, {"guidance": 1.0}),
    ("guidance_scale", 20, {"guidance": 20.0}),
    ("num_images", 4, {"images": 4}),
    ("enable_safety_checker", True, {}),
    ("enable_safety_checker", False, {"safety": False}),
    ("output_format", "png", {"output_format": "png"}),
    ("acceleration", "none", {}),
    ("acceleration", "regular", {"acceleration": "regular"}),
    ("acceleration", "high", {"acceleration": "high"}),
    ("enhance_prompt", False, {}),
]

#: field, what is sent, the name that the refusal must give.
REFUSED: list[tuple[str, Any, str]] = [
    ("prompt", "", "prompt"),
    ("prompt", "a" * 4001, "prompt"),
    ("prompt", None, "prompt"),
    ("image_size", "1024x768", "image_size"),
    ("image_size", None, "image_size"),
    ("image_size", size(255, 256), "image_size.width"),
    ("image_size", size(256, 2561), "image_size.height"),
    ("image_size", {"width": 300, "depth": 3}, "image_size.depth"),
    ("image_size", size(2560, 1094), "image_size"),
    ("num_inference_steps", 0, "num_inference_steps"),
    ("num_inference_steps", 51, "num_inference_steps"),
    ("seed", -1, "seed"),
    ("seed", 2**32, "seed"),
    ("guidance_scale", 0.99, "guidance_scale"),
    ("guidance_scale", 20.01, "guidance_scale"),
    ("sync_mode", "true", "sync_mode"),
    ("sync_mode", 1, "sync_mode"),
    ("num_images", 0, "num_images"),
    ("num_images", 5, "num_images"),
    ("enable_safety_checker", "false", "enable_safety_checker"),
    ("output_format", "webp", "output_format"),
    ("acceleration", "fast", "acceleration"),
    ("enhance_prompt", True, "enhance_prompt"),
    ("strength", 0.8, "strength"),
    ("image_url", "https://example.com/a.png", "image_url"),
    ("input", {"prompt": "a fox"}, "input"),
]


def brief(value: object) -> str:
    return repr(value)[:40]


def test_the_defaults_are_those_of_the_page() -> None:
    assert read() == Order(ENDPOINT, DEFAULT, dialect="fal")


@pytest.mark.parametrize("example", ["quick_start", "input_example"])
def test_the_pages_own_example_is_taken(example: str) -> None:
    body = PAGE[example]
    order = fal.read(body, endpoint=PAGE["endpoint"], model="srpo", spare_seed=SPARE)

    assert order.request == DEFAULT.model_copy(update={"prompt": body["prompt"]})


@pytest.mark.parametrize(("field", "sent", "changes"), TAKEN, ids=brief)
def test_a_field_has_its_effect_and_no_other(field: str, sent: object, changes: dict[str, Any]) -> None:
    assert read(**{field: sent}) == replace(read(), request=DEFAULT.model_copy(update=changes))


@pytest.mark.parametrize("sent", [False, True])
def test_sync_mode_has_the_pictures_sent_with_the_answer(sent: bool) -> None:
    assert read(sync_mode=sent) == replace(read(), inline=sent)


@pytest.mark.parametrize(("field", "sent", "named"), REFUSED, ids=brief)
def test_what_cannot_be_honoured_is_refused_by_name(field: str, sent: object, named: str) -> None:
    assert [problem.field for problem in refused(**{field: sent})] == [named]


@pytest.mark.parametrize("field", ["num_inference_steps", "seed", "num_images"])
@pytest.mark.parametrize("sent", [2.5, "2", True, [2], {}])
def test_a_whole_number_is_nothing_else(field: str, sent: object) -> None:
    assert [problem.field for problem in refused(**{field: sent})] == [field]


@pytest.mark.parametrize("field", SrpoFields.model_fields)
def test_every_field_of_the_schema_is_tried_here(field: str) -> None:
    """A new field fails here until its effect and its refusal stand in the tables above."""
    assert field in {field for field, _, _ in TAKEN} | {"sync_mode"}
    assert field in {field for field, _, _ in REFUSED}


def test_the_schema_has_the_pages_fields_and_one_of_the_farms_own() -> None:
    assert set(SrpoFields.model_fields) == {*PAGE["input_example"], "seed", "enhance_prompt"}


# Where a request stands


def test_the_urls_keep_owner_and_alias_of_the_endpoint() -> None:
    urls = fal.urls(ENDPOINT, JOB_ID, QUEUE)

    assert urls == {"response_url": URL, "status_url": f"{URL}/status", "cancel_url": f"{URL}/cancel"}


def test_a_submit_is_answered_with_what_the_page_shows() -> None:
    told = QUEUE_PAGE["submitted"]
    accepted = replace(job(endpoint=QUEUE_PAGE["endpoint"]), id=told["request_id"])

    answer = fal.submitted(accepted, QUEUE_PAGE["host"], position=3)

    assert answer == told | {"gateway_request_id": told["request_id"], "status": "IN_QUEUE", "queue_position": 3}


def status(state: State, **changes: Any) -> dict[str, Any]:
    return fal.status(job(state, **changes), QUEUE, position=2, logs=None)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        (State.CREATED, "IN_QUEUE"),
        (State.PROCESSING, "IN_PROGRESS"),
        (State.COMPLETED, "COMPLETED"),
        (State.FAILED, "COMPLETED"),
    ],
)
def test_a_status_has_one_of_fals_three_words_and_the_urls(state: State, word: str) -> None:
    answer = status(state)

    assert (answer["status"], answer["request_id"], answer["logs"]) == (word, JOB_ID, None)
    assert answer.items() >= fal.urls(ENDPOINT, JOB_ID, QUEUE).items()


def test_only_who_waits_has_a_place_in_the_queue() -> None:
    assert [status(state).get("queue_position") for state in State] == [2, None, None, None]


def test_a_completed_status_has_the_seconds_of_inference() -> None:
    assert status(State.COMPLETED)["metrics"] == {"inference_time": 1.2345}
    assert "error" not in status(State.COMPLETED)


def test_a_failed_status_says_why() -> None:
    answer = status(State.FAILED, code="render_failed", error="It did not work.")

    assert (answer["error"], answer["error_type"]) == ("It did not work.", "internal_server_error")
    assert answer["metrics"] == {"inference_time": None}


# Logs


def messages(state: State, **changes: Any) -> list[str]:
    return [line["message"] for line in fal.logs(job(state, **changes), seen_us=SEEN_US)]


def test_a_line_of_the_log_has_what_fals_have() -> None:
    (line,) = fal.logs(job(), seen_us=SEEN_US)

    assert line == {
        "message": "Accepted.",
        "level": "INFO",
        "source": "USER",
        "timestamp": "2026-01-02T03:04:05.678901Z",
    }


def test_the_log_of_a_running_request_tells_its_step_and_when_that_was_seen() -> None:
    lines = fal.logs(job(State.PROCESSING), seen_us=SEEN_US)

    assert [line["message"] for line in lines] == ["Accepted.", "Started, attempt 1.", "Step 2 of 4."]
    assert [line["timestamp"][17:19] for line in lines] == ["05", "06", "07"]


def test_what_has_made_no_step_tells_none() -> None:
    assert messages(State.PROCESSING, step=0, attempt=2) == ["Accepted.", "Started, attempt 2."]


def test_a_request_that_was_taken_back_has_not_started() -> None:
    assert messages(State.CREATED, started_us=SEEN_US, attempt=1) == ["Accepted."]


def test_the_log_of_a_completed_request_has_its_warnings() -> None:
    lines = fal.logs(job(State.COMPLETED, result=a_result(warnings=("long prompt",))), seen_us=SEEN_US)

    assert [line["message"] for line in lines[2:]] == ["long prompt", "Completed, inference took 1.23 s."]
    assert [line["level"] for line in lines] == ["INFO", "INFO", "WARN", "INFO"]
    assert lines[-1]["timestamp"] == "2026-01-02T03:04:08.678901Z"


def test_the_log_of_a_failed_request_ends_with_its_error() -> None:
    lines = fal.logs(job(State.FAILED, error="It did not work."), seen_us=SEEN_US)

    assert (lines[-1]["message"], lines[-1]["level"]) == ("It did not work.", "ERROR")


def test_a_request_that_never_started_does_not_say_so() -> None:
    assert messages(State.FAILED, started_us=0, attempt=0) == ["Accepted.", "The job was cancelled."]


@pytest.mark.parametrize("state", State)
def test_no_two_lines_of_a_log_are_the_same(state: State) -> None:
    """A line's message names it, for whoever sends new lines only."""
    assert len(set(messages(state))) == len(messages(state))


# Outputs


def test_an_output_has_the_fields_and_types_of_the_page() -> None:
    code, body = fal.outcome(job(State.COMPLETED), LINKS)

    assert code == 200
    for path, kind in PAGE["answer"].items():
        found: Any = body
        for name in path.split("."):
            found = found[int(name) if name.isdigit() else name]
        assert type(found) is JSON_KINDS[kind], path


def test_an_output_tells_of_each_picture() -> None:
    result = a_result(images=2, flagged=(False, True))
    _, body = fal.outcome(job(State.COMPLETED, request=a_request(images=2), result=result), LINKS)

    assert body["images"][1] == {
        "url": f"{BASE}/files/{result.images[1].key}",
        "width": 256,
        "height": 256,
        "content_type": "image/jpeg",
        "file_name": result.images[1].key,
        "file_size": 1234,
    }
    assert (body["has_nsfw_concepts"], body["timings"], body["seed"]) == ([False, True], {"inference": 1.2345}, 7)
    assert body["prompt"] == "a red fox"


def test_an_inline_output_holds_the_picture_itself() -> None:
    result = a_result()
    _, body = fal.outcome(job(State.COMPLETED, inline=True, result=result), LINKS)

    head, _, content = body["images"][0]["url"].partition(",")
    assert (head, base64.b64decode(content)) == ("data:image/jpeg;base64", result.images[0].key.encode())


def test_nothing_in_an_output_is_null() -> None:
    """The AI SDK refuses the whole answer for a null."""
    _, body = fal.outcome(job(State.COMPLETED), LINKS)

    assert "null" not in json.dumps(body)
    assert "warnings" not in body


def test_a_warning_stands_in_the_output() -> None:
    _, body = fal.outcome(job(State.COMPLETED, result=a_result(warnings=("long prompt",))), LINKS)

    assert body["warnings"] == ["long prompt"]


# Failures

FAILED = [
    ("cancelled", 499, "client_cancelled", False),
    ("attempts_exhausted", 500, "runner_server_error", False),
    ("storage_failed", 500, "internal_error", False),
    ("storage_unavailable", 500, "internal_error", False),
    ("render_failed", 500, "internal_server_error", True),
    ("safety_check_failed", 500, "internal_server_error", True),
    ("internal_error", 500, "internal_server_error", True),
    ("something_new", 500, "internal_server_error", True),
]


@pytest.mark.parametrize(("code", "status", "slug", "of_the_model"), FAILED)
def test_a_failed_request_answers_with_its_own_error(code: str, status: int, slug: str, of_the_model: bool) -> None:
    detail = [{"loc": ["body"], "msg": "It did not work.", "type": slug}] if of_the_model else "It did not work."

    assert fal.outcome(job(State.FAILED, code=code, error="It did not work."), LINKS) == (
        status,
        {"detail": detail, "message": "It did not work.", "error_type": slug},
    )


def test_every_known_failure_is_tried_here() -> None:
    assert set(fal.FAILURES) < {code for code, _, _, _ in FAILED}


# Webhooks


def test_a_webhook_tells_of_an_output() -> None:
    completed = job(State.COMPLETED)

    assert fal.letter(completed, A_DUE, LINKS) == {
        "request_id": JOB_ID,
        "gateway_request_id": JOB_ID,
        "status": "OK",
        "payload": fal.outcome(completed, LINKS)[1],
    }


def test_a_webhook_tells_of_a_failure() -> None:
    failed = job(State.FAILED)

    assert fal.letter(failed, A_DUE, LINKS) == {
        "request_id": JOB_ID,
        "gateway_request_id": JOB_ID,
        "status": "ERROR",
        "error": "Invalid status code: 499",
        "payload": fal.failure(failed)[1],
    }


def test_a_webhook_says_so_when_an_inline_picture_is_gone() -> None:
    def gone(key: str) -> bytes:
        raise NotFound("The picture is gone.")

    body = fal.letter(job(State.COMPLETED, inline=True), A_DUE, replace(LINKS, content=gone))

    assert (body["status"], body["payload"], body["payload_error"]) == ("OK", None, "The picture is gone.")


# Refusals


def test_a_bad_field_is_told_as_fal_tells_it() -> None:
    body = fal.problem(InvalidRequest(refused(num_inference_steps=51)))

    (detail,) = body["detail"]
    assert (detail["loc"], detail["type"]) == (["body", "num_inference_steps"], "less_than_equal")
    assert (detail["ctx"], detail["input"]) == ({"le": 50}, 51)
    assert "50" in detail["msg"]
    assert "num_inference_steps" in body["message"]


@pytest.mark.parametrize(
    ("fields", "location"),
    [
        ({"image_size": {"width": 1}}, ["body", "image_size", "width"]),
        ({"prompt": None}, ["body", "prompt"]),
        ({"logs": True}, ["body", "logs"]),
    ],
    ids=brief,
)
def test_a_location_is_made_of_strings(fields: dict[str, Any], location: list[str]) -> None:
    """With a number in it, the AI SDK shows nothing of the error."""
    assert fal.problem(InvalidRequest(refused(**fields)))["detail"][0]["loc"] == location


@pytest.mark.parametrize(
    ("problem", "location"),
    [
        (Problem("", "no JSON", "json_invalid"), ["body"]),
        (Problem("fal_webhook", "no address", "url_parsing", ""), ["query", "fal_webhook"]),
        (Problem("mode", "unknown", UNKNOWN_PARAMETER), ["query", "mode"]),
        (Problem("X-Fal-Queue-Priority", "unknown", "literal_error", "x"), ["header", "X-Fal-Queue-Priority"]),
    ],
    ids=brief,
)
def test_what_is_no_field_of_the_body_is_not_looked_for_there(problem: Problem, location: list[str]) -> None:
    assert fal.problem(InvalidRequest([problem]))["detail"][0]["loc"] == location


def test_limits_that_were_broken_are_told_to_programs() -> None:
    (detail,) = fal.problem(InvalidRequest(refused(image_size=size(2560, 1094))))["detail"]

    assert (detail["type"], detail["ctx"]) == ("image_too_large", {"max_pixels": 2_800_000})


NESTED: list[Any] = reduce(lambda inner, _: [inner], range(5000), [])


@pytest.mark.parametrize(
    "value", ["a" * 5000, float("nan"), float("inf"), NESTED], ids=["long", "nan", "inf", "nested"]
)
def test_what_is_long_or_no_json_is_not_repeated(value: object) -> None:
    assert "input" not in fal.problem(InvalidRequest([Problem("seed", "no", "int_type", value)]))["detail"][0]


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (FarmError(), "internal_error"),
        (StorageError(), "internal_error"),
        (StorageUnavailable(), "internal_error"),
        (StoreUnavailable(), "internal_error"),
        (NotReady(), "runner_scheduling_failure"),
        (TooManyHeld(), "concurrent_requests_limit"),
        (IdempotencyConflict(), "bad_request"),
        (NotFound(), None),
        (Unauthorized(), None),
        (QueueFull(), None),
    ],
    ids=brief,
)
def test_a_refusal_has_a_text_for_each_client_and_a_slug_where_fal_has_one(error: FarmError, slug: str | None) -> None:
    body = fal.problem(error)

    assert body["detail"] == body["message"] == str(error)
    assert body.get("error_type") == slug


def test_an_unknown_request_says_so_in_one_word_too() -> None:
    assert fal.problem(NotFound())["status"] == "NOT_FOUND"


def test_the_headers_of_an_error_repeat_its_slug() -> None:
    assert fal.error_headers({"error_type": "internal_error"}) == {"X-Fal-Error-Type": "internal_error"}
    assert fal.error_headers({"detail": "no"}) == {}


def test_whoever_may_come_back_is_told_so() -> None:
    assert fal.error_headers({}, may_retry=True) == {"X-Fal-Needs-Retry": "1", "X-Fal-Retryable": "true"}
