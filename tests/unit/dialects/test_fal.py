"""fal's dialect: each field's effect or refusal, its states, outputs, failures and refusals."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import reduce
from typing import Any

import pytest

from farm.dialects import fal
from farm.dialects.answers.fal import FalStatus
from farm.dialects.fields import FIELDS, UNKNOWN_PARAMETER
from farm.domain import catalogue
from farm.domain.error_codes import JOB_FAILURES
from farm.domain.errors import (
    ConcurrencyLimitReached,
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
    Unauthorized,
)
from farm.domain.job import Conditions, Job, State
from tests.unit.dialects import golden
from tests.unit.dialects.endpoints import DEFAULT_SEED, ENDPOINTS, FOX, REQUESTS, brief, size
from tests.unit.dialects.samples import A_DUE, BASE, CREATED_US, JOB_ID, LINKS, a_job, a_request, a_result

ENDPOINT = "fal-ai/flux/srpo"
QUEUE = f"{BASE}/fal/queue"
URL = f"{QUEUE}/fal-ai/flux/requests/{JOB_ID}"


PAGE = golden.load("fal-flux-srpo")
KONTEXT_PAGES = golden.load("fal-flux-pro-kontext")
ERRORS = golden.load("fal-errors")
QUEUE_PAGE = golden.load("fal-queue")
JSON_KINDS = {"integer": int, "string": str, "array": list, "object": dict}
SEEN_US = CREATED_US + 2_000_000


def refused(model: str = "srpo", /, **fields: Any) -> list[Problem]:
    """Return what is wrong with these fields."""
    return ENDPOINTS[f"fal {model}"].problems(fields)


def job(state: State = State.CREATED, **changes: Any) -> Job:
    return a_job(state, **({"endpoint": ENDPOINT, "dialect": "fal"} | changes))


@pytest.mark.parametrize("example", ["quick_start", "input_example"])
def test_the_pages_own_example_is_taken(example: str) -> None:
    body = PAGE[example]
    order = fal.read(body, endpoint=PAGE["endpoint"], model="srpo", default_seed=DEFAULT_SEED)

    assert order.request == REQUESTS["srpo"].model_copy(update={"prompt": body["prompt"]})


@pytest.mark.parametrize("page", KONTEXT_PAGES["examples"], ids=lambda page: str(page["name"]))
@pytest.mark.parametrize("example", ["quick_start", "input_example"])
def test_the_example_of_each_of_kontexts_pages_is_taken(page: dict[str, Any], example: str) -> None:
    body, model = page[example], catalogue.find(page["endpoint"])
    assert model is not None

    order = fal.read(body, endpoint=page["endpoint"], model=model.name, default_seed=DEFAULT_SEED)

    assert order.request == REQUESTS[model.name].model_copy(update={"model": model.name, "prompt": body["prompt"]})
    urls = body.get("image_urls") or [body[name] for name in ["image_url"] if name in body]
    assert [source.url for source in order.sources] == urls


@pytest.mark.parametrize(("endpoint", "names"), KONTEXT_PAGES["fields"].items())
def test_the_schema_of_kontext_has_the_pages_fields(endpoint: str, names: list[str]) -> None:
    model = catalogue.find(endpoint)
    assert model is not None

    assert set(FIELDS[model.name].model_fields) == set(names)


@pytest.mark.parametrize(("count", "kind"), [(0, "sequence_too_short"), (5, "sequence_too_long")])
def test_too_few_or_too_many_images_have_fals_error_types(count: int, kind: str) -> None:
    (problem,) = refused("kontext-multi", image_urls=[FOX] * count)

    assert problem.kind == kind
    assert kind in ERRORS["model"]
    limit = {"sequence_too_short": ("min_length", 1), "sequence_too_long": ("max_length", 4)}[kind]
    assert limit in (problem.context or {}).items()


def test_the_schema_has_the_pages_fields_and_one_of_the_farms_own() -> None:
    assert set(FIELDS["srpo"].model_fields) == {*PAGE["input_example"], "seed", "enhance_prompt"}


# Headers of a submit


def wanted(**headers: str) -> Conditions:
    """Return the conditions that these headers, their dashes written as underscores, set."""
    given = {name.replace("_", "-"): text for name, text in headers.items()}
    return fal.conditions(given.get, max_keep_seconds=3600)


HONOURED: list[tuple[str, str, dict[str, Any]]] = [
    ("X-Fal-Request-Timeout", "30", {"start_within": 30.0}),
    ("X-Fal-Request-Timeout", "5.0", {"start_within": 5.0}),
    ("X-Fal-Request-Timeout", "0.11", {"start_within": 0.11}),
    ("X-Fal-Request-Timeout", str(10 / 3), {"start_within": 10 / 3}),
    ("X-Fal-Object-Lifecycle-Preference", '{"expiration_duration_seconds": 3600}', {"keep_seconds": 3600}),
    ("X-Fal-Object-Lifecycle-Preference", '{"expiration_duration_seconds": 60.0}', {"keep_seconds": 60}),
    ("X-Fal-Object-Lifecycle-Preference", '{"expiration_duration_seconds": null}', {}),
    ("X-Fal-Object-Lifecycle-Preference", "{}", {}),
    ("X-Fal-Object-Lifecycle-Preference", '{"initial_acl": {"default": "allow"}}', {}),
    (
        "X-Fal-Object-Lifecycle-Preference",
        '{"initial_acl": {"rules": [{"user": "u", "decision": "allow"}]}, "expiration_duration_seconds": 1}',
        {"keep_seconds": 1},
    ),
    ("X-Fal-Store-IO", "0", {"keeps_payload": False}),
    ("X-Fal-Store-IO", "1", {}),
    ("X-Fal-No-Retry", "1", {"may_retry": False}),
    ("X-Fal-No-Retry", "true", {"may_retry": False}),
    ("X-Fal-No-Retry", "Yes", {"may_retry": False}),
    ("X-Fal-No-Retry", "0", {}),
    ("X-Fal-No-Retry", "false", {}),
    ("X-Fal-Runner-Hint", "session 7/~", {"runner_hint": "session 7/~"}),
    ("X-Fal-Runner-Hint", "h" * 256, {"runner_hint": "h" * 256}),
]
UNREADABLE = {
    "X-Fal-Request-Timeout": ["", "0", "0.1", "-1", "soon", "nan", "inf", "1e3", "1_0", " 5", "5,6", "9" * 400, "٣"],
    "X-Fal-Object-Lifecycle-Preference": [
        "",
        "3600",
        "[]",
        "null",
        "{",
        "[" * 5000,
        '{"expiration_duration_seconds": 0}',
        '{"expiration_duration_seconds": -1}',
        '{"expiration_duration_seconds": 3601}',
        '{"expiration_duration_seconds": "60"}',
        '{"expiration_duration_seconds": 1.5}',
        '{"expiration_duration_seconds": true}',
        '{"expires": 60}',
        '{"initial_acl": {"default": "forbid"}}',
        '{"initial_acl": {"default": "hide"}}',
        '{"initial_acl": {"default": "allow", "rules": [{"user": "u", "decision": "forbid"}]}}',
        '{"initial_acl": "allow"}',
    ],
    "X-Fal-Store-IO": ["", "2", "off", "0 "],
    "X-Fal-No-Retry": ["", "2", "never", "1,1"],
    "X-Fal-Runner-Hint": ["", "h" * 257, "é", "a\tb", "a\x00b"],
}
HEADERS = [fal.REQUEST_TIMEOUT, fal.LIFECYCLE, fal.STORE_IO, fal.NO_RETRY, fal.RUNNER_HINT]


def test_without_headers_nothing_is_wanted() -> None:
    assert wanted() == Conditions()


@pytest.mark.parametrize(("name", "text", "changes"), HONOURED, ids=brief)
def test_a_header_has_its_effect_and_no_other(name: str, text: str, changes: dict[str, Any]) -> None:
    assert wanted(**{name: text}) == replace(Conditions(), **changes)


@pytest.mark.parametrize(
    ("name", "text"), [(name, text) for name, texts in UNREADABLE.items() for text in texts], ids=brief
)
def test_a_header_that_cannot_be_honoured_is_refused_by_name(name: str, text: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wanted(**{name: text})

    assert [problem.field for problem in caught.value.problems] == [name]
    assert str(caught.value).startswith(f"{name}: ")


def test_every_header_is_tried_here() -> None:
    assert {name for name, _, _ in HONOURED} == set(UNREADABLE) == set(HEADERS)
    assert not set(HEADERS) & set(fal.TOLERATED_HEADERS)


# Where a request stands


@pytest.mark.parametrize(
    ("endpoint", "application"),
    [
        (ENDPOINT, "fal-ai/flux"),
        ("fal-ai/flux/srpo/image-to-image", "fal-ai/flux"),
        ("fal-ai/flux-pro/kontext", "fal-ai/flux-pro"),
        ("fal-ai/flux-pro/kontext/max/text-to-image", "fal-ai/flux-pro"),
        ("fal-ai/flux-pro/kontext/max/multi", "fal-ai/flux-pro"),
    ],
)
def test_the_urls_keep_owner_and_alias_of_the_endpoint(endpoint: str, application: str) -> None:
    urls = fal.urls(endpoint, JOB_ID, QUEUE)

    url = f"{QUEUE}/{application}/requests/{JOB_ID}"
    assert urls == {"response_url": url, "status_url": f"{url}/status", "cancel_url": f"{url}/cancel"}


def test_a_submit_is_answered_with_what_the_page_shows() -> None:
    result = QUEUE_PAGE["submitted"]
    accepted = replace(job(endpoint=QUEUE_PAGE["endpoint"]), id=result["request_id"])

    answer = fal.submitted(accepted, QUEUE_PAGE["host"], position=3)

    assert answer == result | {"gateway_request_id": result["request_id"], "status": "IN_QUEUE", "queue_position": 3}


def status(state: State, **changes: Any) -> FalStatus:
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


def test_only_a_waiting_job_has_a_queue_position() -> None:
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


def test_a_job_without_a_step_reports_no_progress() -> None:
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
    """A stream that sends only new log lines tells them apart by their messages."""
    assert len(set(messages(state))) == len(messages(state))


# Outputs


@pytest.mark.parametrize("page", [PAGE, KONTEXT_PAGES], ids=["srpo", "kontext"])
def test_an_output_has_the_fields_and_types_of_the_page(page: dict[str, Any]) -> None:
    code, body = fal.outcome(job(State.COMPLETED), LINKS)

    assert code == 200
    for path, kind in page["answer"].items():
        found: Any = body
        for name in path.split("."):
            found = found[int(name) if name.isdigit() else name]
        assert type(found) is JSON_KINDS[kind], path


def test_an_output_tells_of_each_image() -> None:
    result = a_result(images=2, flagged=(False, True))
    body: Any = fal.outcome(job(State.COMPLETED, request=a_request(images=2), result=result), LINKS)[1]

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


def test_an_inline_output_holds_the_image_itself() -> None:
    result = a_result()
    body: Any = fal.outcome(job(State.COMPLETED, inline=True, result=result), LINKS)[1]

    head, _, content = body["images"][0]["url"].partition(",")
    assert (head, base64.b64decode(content)) == ("data:image/jpeg;base64", result.images[0].key.encode())


def test_nothing_in_an_output_is_null() -> None:
    """The AI SDK refuses the whole answer for a null."""
    body: Any = fal.outcome(job(State.COMPLETED), LINKS)[1]

    assert "null" not in json.dumps(body)
    assert "warnings" not in body


def test_a_warning_stands_in_the_output() -> None:
    body: Any = fal.outcome(job(State.COMPLETED, result=a_result(warnings=("long prompt",))), LINKS)[1]

    assert body["warnings"] == ["long prompt"]


# Failures

#: code, status, slug; and of the model's errors where they lie.
FAILED: list[tuple[str, int, str, list[str] | None]] = [
    ("cancelled", 499, "client_cancelled", None),
    ("client_disconnected", 499, "client_disconnected", None),
    ("start_timeout", 504, "startup_timeout", None),
    ("render_timeout", 504, "generation_timeout", ["body"]),
    ("preparation_failed", 500, "internal_error", None),
    ("attempts_exhausted", 500, "runner_server_error", None),
    ("storage_failed", 500, "internal_error", None),
    ("storage_unavailable", 500, "internal_error", None),
    ("storage_refused", 500, "internal_error", None),
    ("render_failed", 500, "internal_server_error", ["body"]),
    ("out_of_memory", 500, "internal_server_error", ["body"]),
    ("safety_check_failed", 500, "internal_server_error", ["body"]),
    ("internal_error", 500, "internal_server_error", ["body"]),
    ("something_new", 500, "internal_server_error", ["body"]),
    ("file_download_error", 422, "file_download_error", ["body", "image_url"]),
    ("file_too_large", 422, "file_too_large", ["body", "image_url"]),
    ("image_load_error", 422, "image_load_error", ["body", "image_url"]),
    ("image_too_large", 422, "image_too_large", ["body", "image_url"]),
    ("image_too_small", 422, "image_too_small", ["body", "image_url"]),
    ("unsupported_image_format", 422, "unsupported_image_format", ["body", "image_url"]),
]


@pytest.mark.parametrize(("code", "status", "slug", "location"), FAILED)
def test_a_failed_request_answers_with_its_own_error(
    code: str, status: int, slug: str, location: list[str] | None
) -> None:
    failed = job(State.FAILED, request=a_request(model="kontext"), code=code, error="It did not work.")
    detail = [{"loc": location, "msg": "It did not work.", "type": slug}] if location else "It did not work."

    assert fal.outcome(failed, LINKS) == (
        status,
        {"detail": detail, "message": "It did not work.", "error_type": slug},
    )


def location_of(failed: Job) -> object:
    detail: Any = fal.failure(failed)[1]["detail"]
    return detail[0]["loc"]


@pytest.mark.parametrize(
    ("model", "location"), [("kontext-multi", ["body", "image_urls"]), ("kontext-text-to-image", ["body"])]
)
def test_a_bad_image_lies_where_the_model_takes_images(model: str, location: list[str]) -> None:
    failed = job(State.FAILED, request=a_request(model=model), code="image_load_error", error="It is no image.")

    assert location_of(failed) == location


@pytest.mark.parametrize("error", ["image_urls.1: it is no image", "image_urls.1 (a.example): it is no image"])
def test_of_several_images_the_bad_one_is_named(error: str) -> None:
    request = a_request(model="kontext-multi", source_fields=("image_urls.0", "image_urls.1"))
    failed = job(State.FAILED, request=request, code="image_load_error", error=error)

    assert location_of(failed) == ["body", "image_urls", "1"]


def test_every_known_failure_is_tried_here() -> None:
    assert set(JOB_FAILURES) < {code for code, _, _, _ in FAILED}


@pytest.mark.parametrize(
    ("status", "slug", "blamed"),
    sorted({(failed.status, failed.fal, failed.fal_blames) for failed in JOB_FAILURES.values()}),
)
def test_the_words_of_failures_are_fals_own(status: int, slug: str, blamed: str) -> None:
    assert ERRORS[blamed][slug] == status


def test_an_error_of_the_platform_has_the_shape_of_the_page() -> None:
    _, body = fal.failure(job(State.FAILED))

    assert {name: type(value) for name, value in body.items()}.items() >= {
        name: type(value) for name, value in ERRORS["platform_example"].items()
    }.items()


# Webhooks


def test_a_webhook_tells_of_an_output() -> None:
    completed = job(State.COMPLETED)

    assert fal.webhook_body(completed, A_DUE, LINKS) == {
        "request_id": JOB_ID,
        "gateway_request_id": JOB_ID,
        "status": "OK",
        "payload": fal.outcome(completed, LINKS)[1],
    }


def test_a_webhook_tells_of_a_failure() -> None:
    failed = job(State.FAILED)

    assert fal.webhook_body(failed, A_DUE, LINKS) == {
        "request_id": JOB_ID,
        "gateway_request_id": JOB_ID,
        "status": "ERROR",
        "error": "Invalid status code: 499",
        "payload": fal.failure(failed)[1],
    }


def test_a_webhook_says_so_when_an_inline_image_is_gone() -> None:
    def gone(key: str) -> bytes:
        raise NotFound("The image is gone.")

    body: Any = fal.webhook_body(job(State.COMPLETED, inline=True), A_DUE, replace(LINKS, content=gone))

    assert (body["status"], body["payload"], body["payload_error"]) == ("OK", None, "The image is gone.")


# Refusals


def details(problems: list[Problem]) -> list[Any]:
    """Return the details of an error with these problems."""
    return list(fal.problem(InvalidRequest(problems))["detail"])


def test_a_bad_field_has_fals_error_shape() -> None:
    body = fal.problem(InvalidRequest(refused(num_inference_steps=51)))

    (detail,) = details(refused(num_inference_steps=51))
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
    """The AI SDK shows nothing of an error with a number in it."""
    assert details(refused(**fields))[0]["loc"] == location


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
def test_a_problem_outside_the_body_has_its_own_location(problem: Problem, location: list[str]) -> None:
    assert details([problem])[0]["loc"] == location


def test_an_absent_value_is_not_repeated_as_null() -> None:
    absent = [Problem("mode", "unknown", UNKNOWN_PARAMETER), Problem("Idempotency-Key", "too long", "string_too_long")]

    assert ["input" in detail for detail in details(absent)] == [False, False]
    assert details(refused(seed="x", prompt=None))[0]["input"] is None


def test_a_broken_limit_is_in_the_context_of_the_error() -> None:
    (detail,) = details(refused(image_size=size(2560, 1094)))

    assert (detail["type"], detail["ctx"]) == ("image_too_large", {"max_pixels": 2_800_000})


NESTED: list[Any] = reduce(lambda inner, _: [inner], range(5000), [])


@pytest.mark.parametrize(
    "value", ["a" * 5000, float("nan"), float("inf"), NESTED], ids=["long", "nan", "inf", "nested"]
)
def test_a_value_that_is_long_or_not_json_is_not_repeated(value: object) -> None:
    assert "input" not in details([Problem("seed", "no", "int_type", value)])[0]


@pytest.mark.parametrize(
    ("error", "slug"),
    [
        (FarmError(), "internal_error"),
        (StorageError(), "internal_error"),
        (StorageUnavailable(), "internal_error"),
        (StoreUnavailable(), "internal_error"),
        (NotReady(), "runner_scheduling_failure"),
        (ConcurrencyLimitReached(), "concurrent_requests_limit"),
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
    assert fal.problem(NotFound()).get("status") == "NOT_FOUND"


def test_the_headers_of_an_error_repeat_its_slug() -> None:
    assert fal.error_headers({"error_type": "internal_error"}) == {"X-Fal-Error-Type": "internal_error"}
    assert fal.error_headers({"detail": "no"}) == {}


@pytest.mark.parametrize("slug", ["request_timeout", "startup_timeout"])
def test_a_timeout_set_by_the_caller_has_fals_header(slug: str) -> None:
    """Without this header the clients would retry the request."""
    assert fal.error_headers({"error_type": slug}) == {
        "X-Fal-Error-Type": slug,
        "X-Fal-Request-Timeout-Type": "user",
    }


def test_a_retryable_error_has_fals_headers() -> None:
    assert fal.error_headers({}, may_retry=True) == {"X-Fal-Needs-Retry": "1", "X-Fal-Retryable": "true"}
