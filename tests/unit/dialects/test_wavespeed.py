"""WaveSpeed's dialect: each field's effect or refusal, its predictions and its error numbers."""

from __future__ import annotations

import base64
import json
from dataclasses import replace
from functools import partial, reduce
from typing import Any

import pytest

from farm.dialects import wavespeed
from farm.dialects.links import Links
from farm.domain.error_codes import JOB_FAILURES
from farm.domain.errors import (
    ConcurrencyLimitReached,
    FarmError,
    Forbidden,
    IdempotencyConflict,
    InvalidRequest,
    ModelNotServed,
    NotFound,
    Problem,
    QueueFull,
    StorageError,
    StoreUnavailable,
    Unauthorized,
    UnknownModel,
)
from farm.domain.job import TERMINAL, Search, State, Webhook
from tests.unit.dialects import golden
from tests.unit.dialects.endpoints import DEFAULT_SEED, ENDPOINTS, FOX, brief
from tests.unit.dialects.samples import A_DUE, BASE, CREATED_US, JOB_ID, LINKS, a_job, a_result

#: A search for WaveSpeed's jobs.
a_search = partial(Search, dialect="wavespeed")

SRPO, IMAGE = "srpo", "srpo-image-to-image"
IDS = {model: ENDPOINTS[f"wavespeed {model}"].id for model in (SRPO, IMAGE)}
PAGE = golden.load("wavespeed-flux-srpo")
JSON_KINDS = {"integer": int, "string": str, "array": list, "object": dict}


def read(query: str = "", *, model: str = SRPO, **fields: Any) -> wavespeed.Submit:
    body = {**ENDPOINTS[f"wavespeed {model}"].minimum, **fields}
    return wavespeed.read(body, query, endpoint=IDS[model], model=model, default_seed=DEFAULT_SEED)


def submit(**changes: Any) -> wavespeed.Submit:
    """Return the order of the smallest request, with these changes."""
    order, _ = ENDPOINTS["wavespeed srpo"].expected(changes)
    return wavespeed.Submit(order, held=False)


def refused(query: str = "", **fields: Any) -> list[Problem]:
    """Return what is wrong with this query and these fields."""
    with pytest.raises(InvalidRequest) as caught:
        read(query, **fields)
    return caught.value.problems


@pytest.mark.parametrize("strength", [None, 0, 0.3, 1])
def test_text_to_image_with_an_image_is_image_to_image(strength: float | None) -> None:
    """Named as the caller named it."""
    asked = read(image=FOX, strength=strength, seed=3).order

    wanted = read(model=IMAGE, strength=0.8 if strength is None else strength, seed=3).order
    assert asked == replace(wanted, endpoint=IDS[SRPO])


@pytest.mark.parametrize("model", wavespeed.INPUTS)
def test_a_wavespeed_image_is_always_checked(model: str) -> None:
    assert read(model=model).order.request.safety is True


def test_image_to_image_without_an_image_lacks_it() -> None:
    with pytest.raises(InvalidRequest) as caught:
        wavespeed.read({"prompt": "a fox"}, "", endpoint=IDS[IMAGE], model=IMAGE, default_seed=DEFAULT_SEED)

    body = wavespeed.problem(400, caught.value)
    assert (body["data"]["code"], body["message"]) == (1400, "image: this field is required")


def test_the_pages_own_example_lacks_the_prompt() -> None:
    with pytest.raises(InvalidRequest) as caught:
        wavespeed.read(PAGE["body"], "", endpoint=IDS[SRPO], model=SRPO, default_seed=DEFAULT_SEED)

    body = wavespeed.problem(400, caught.value)
    assert (body["code"], body["data"]["code"]) == (400, 1400)
    assert "prompt" in body["message"]
    assert "prompt" in body["data"]["error"]


def test_the_pages_own_example_with_a_prompt_is_taken() -> None:
    assert read(**PAGE["body"]) == submit()


@pytest.mark.parametrize(
    ("query", "url"),
    [
        ("webhook=https%3A%2F%2Fa.example%2Fhook", "https://a.example/hook"),
        ("webhook=https%3A%2F%2Fa.example%2Fhook%3Fx%3D1%26y%3Da%2Bb+c", "https://a.example/hook?x=1&y=a+b c"),
        ("webhook=https:%2F%2Fa.example%2Fhook%3Fx%3D1", "https://a.example/hook?x=1"),
        ("webhook=https://a.example/hook%3Fx=1", "https://a.example/hook?x=1"),
        ("webhook=https://a.example/hook", "https://a.example/hook"),
        ("webhook=https://a.example/hook&", "https://a.example/hook"),
        ("webhook=https://a.example/hook?x=1", "https://a.example/hook?x=1"),
        ("webhook=https://a.example/hook?x=1&y=%2F+%26&z", "https://a.example/hook?x=1&y=%2F+%26&z"),
        ("webhook=https://a.example?webhook=1&webhook=2", "https://a.example?webhook=1&webhook=2"),
        ("webhook=HTTP://a.example/?x=1&y=2", "HTTP://a.example/?x=1&y=2"),
    ],
)
def test_the_webhook_of_the_address_is_read_encoded_or_not(query: str, url: str) -> None:
    assert read(query) == submit(webhook=Webhook(url, TERMINAL))


@pytest.mark.parametrize(
    ("query", "named"),
    [
        ("webhook=", ["webhook"]),
        ("webhook", ["webhook"]),
        ("webhook=https://a.example&webhook=https://b.example", ["webhook"]),
        ("mode=fast", ["mode"]),
        ("mode", ["mode"]),
        ("=", [""]),
        ("a=1&b=2", ["a", "b"]),
        ("mode=fast&webhook=https://a.example", ["mode"]),
        ("webhook=https://a.example/hook&mode=fast", ["mode"]),
        ("Webhook=https://a.example", ["Webhook"]),
    ],
)
def test_an_unknown_query_parameter_is_refused_by_name(query: str, named: list[str]) -> None:
    assert [problem.field for problem in refused(query)] == named


@pytest.mark.parametrize("switch", [{"enable_base64_output": True}, {"enable_sync_mode": True}], ids=brief)
def test_a_webhook_does_not_go_with_an_answer_that_is_the_image(switch: dict[str, Any]) -> None:
    (problem,) = refused("webhook=https://a.example", **switch)

    assert problem.field == "webhook"
    assert f"cannot be combined with {next(iter(switch))}" in problem.message


def listed(body: dict[str, Any] | None = None, query: str = "") -> wavespeed.Listing:
    return wavespeed.read_listing(body or {}, query)


def test_a_list_has_a_hundred_items_by_default() -> None:
    assert listed() == wavespeed.Listing(page=1, size=100, search=a_search())


#: What is sent, what follows from it.
LISTED: list[tuple[dict[str, Any], wavespeed.Listing]] = [
    ({"page": 3, "page_size": 20}, wavespeed.Listing(3, 20, a_search())),
    ({"page": 3.0}, wavespeed.Listing(3, 100, a_search())),
    ({"page_size": 1}, wavespeed.Listing(1, 1, a_search())),
    ({"model": "wavespeed-ai/flux-srpo"}, wavespeed.Listing(1, 100, a_search(endpoint="wavespeed-ai/flux-srpo"))),
    ({"status": "created"}, wavespeed.Listing(1, 100, a_search(state=State.CREATED))),
    ({"status": "failed"}, wavespeed.Listing(1, 100, a_search(state=State.FAILED))),
    ({"created_after": "2026-01-02T03:04:05.678901Z"}, wavespeed.Listing(1, 100, a_search(after_us=CREATED_US))),
    ({"created_before": "2026-01-02T03:04:05.678Z"}, wavespeed.Listing(1, 100, a_search(before_us=CREATED_US + 98))),
    ({"model": None, "status": None, "created_after": None}, wavespeed.Listing(1, 100, a_search())),
    ({"status": "cancelled"}, wavespeed.Listing(1, 100, None)),
    ({"status": "timeout", "include_inputs": True}, wavespeed.Listing(1, 100, None, has_inputs=True)),
    ({"include_inputs": True}, wavespeed.Listing(1, 100, a_search(), has_inputs=True)),
    ({"include_inputs": False}, wavespeed.Listing(1, 100, a_search())),
]

#: What is sent, the name that the refusal must give.
NOT_LISTED: list[tuple[dict[str, Any], str]] = [
    ({"page": 0}, "page"),
    ({"page": "1"}, "page"),
    ({"page": True}, "page"),
    ({"page": 10**18}, "page"),
    ({"page_size": 0}, "page_size"),
    ({"page_size": 101}, "page_size"),
    ({"model": ""}, "model"),
    ({"model": 5}, "model"),
    ({"status": "done"}, "status"),
    ({"created_after": "yesterday"}, "created_after"),
    ({"created_after": ""}, "created_after"),
    ({"created_after": 1767323045}, "created_after"),
    ({"created_before": "2026-02-30T00:00:00Z"}, "created_before"),
    ({"created_before": "2026-01-02T03:04:05+99:00"}, "created_before"),
    ({"include_inputs": "true"}, "include_inputs"),
    ({"limit": 5}, "limit"),
]


@pytest.mark.parametrize(("sent", "listing"), LISTED, ids=brief)
def test_a_list_is_read(sent: dict[str, Any], listing: wavespeed.Listing) -> None:
    assert listed(sent) == listing


@pytest.mark.parametrize(("sent", "named"), NOT_LISTED, ids=brief)
def test_a_list_that_cannot_be_given_is_refused_by_name(sent: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        listed(sent)
    assert [problem.field for problem in caught.value.problems] == [named]


@pytest.mark.parametrize("field", wavespeed.ListInput.model_fields)
def test_every_field_of_the_list_is_tried_here(field: str) -> None:
    assert field in {name for sent, _ in LISTED for name in sent}
    assert field in {name for sent, _ in NOT_LISTED for name in sent}


@pytest.mark.parametrize(
    "text",
    [
        "2026-01-02T00:00:00Z",
        "2026-01-02T00:00:00.000Z",
        "2026-01-02T00:00:00.000000000Z",
        "2026-01-02T01:00:00+01:00",
        "2026-01-02T00:00:00",
        "2026-01-02 00:00",
        "2026-01-02",
        "20260102T000000Z",
    ],
)
def test_a_time_without_a_zone_is_utc(text: str) -> None:
    search = listed({"created_after": text}).search

    assert search is not None
    assert search.after_us == 1_767_312_000_000_000


def test_a_list_may_be_asked_for_in_the_address() -> None:
    query = "page=2&page_size=10&status=completed&model=wavespeed-ai%2Fflux-srpo&created_after=2026-01-02"

    listing = listed(query=query)

    assert (listing.page, listing.size, listing.skip) == (2, 10, 10)
    assert listing.search == a_search(1_767_312_000_000_000, None, State.COMPLETED, "wavespeed-ai/flux-srpo")


@pytest.mark.parametrize(
    "query", ["page=x", "page=-1", "page=1.0", "page=%D9%A1", "page=", "page=1&page=2", "page=9e9"]
)
def test_a_number_in_the_address_is_nothing_else(query: str) -> None:
    with pytest.raises(InvalidRequest, match=r"^page: "):
        listed(query=query)


def test_a_parameter_in_query_and_body_is_refused() -> None:
    with pytest.raises(InvalidRequest, match="page_size: sent in the query string and in the body"):
        listed({"page": 1, "page_size": 10}, "page_size=10")


@pytest.mark.parametrize("state", State)
def test_an_answer_has_the_fields_and_types_of_the_page(state: State) -> None:
    answer = json.loads(json.dumps(wavespeed.answer(a_job(state), LINKS)))

    assert (answer["code"], answer["message"]) == (200, "success")
    for path, kind in PAGE["answer"].items():
        found: Any = reduce(lambda part, name: part[name], path.split("."), answer)
        assert type(found) is JSON_KINDS[kind], path


@pytest.mark.parametrize("state", State)
def test_a_prediction_has_the_same_fields_in_every_state(state: State) -> None:
    assert set(wavespeed.prediction(a_job(state), LINKS)) == set(wavespeed.prediction(a_job(), LINKS))


@pytest.mark.parametrize("state", [State.CREATED, State.PROCESSING])
def test_an_unfinished_prediction(state: State) -> None:
    prediction = wavespeed.prediction(a_job(state, endpoint="wavespeed-ai/flux-1-srpo"), LINKS)

    assert (prediction["id"], prediction["model"]) == (JOB_ID, "wavespeed-ai/flux-1-srpo")
    assert (prediction["status"], prediction["code"], prediction["error"]) == (state.value, 0, "")
    assert (prediction["outputs"], prediction["has_nsfw_contents"], prediction["timings"]) == ([], [], {"inference": 0})
    assert (prediction["seed"], prediction["created_at"]) == (7, "2026-01-02T03:04:05.678Z")
    assert prediction["urls"] == {"get": f"{BASE}/api/v3/predictions/{JOB_ID}/result"}


def test_a_completed_prediction() -> None:
    result = a_result(flagged=(True,))
    prediction = wavespeed.prediction(a_job(State.COMPLETED, result=result), LINKS)

    assert prediction["outputs"] == [f"{BASE}/files/{result.images[0].key}"]
    assert (prediction["status"], prediction["code"], prediction["error"]) == ("completed", 0, "")
    assert prediction["has_nsfw_contents"] == [True]
    assert (prediction["timings"], prediction["executionTime"]) == ({"inference": 1234}, 1234)


@pytest.mark.parametrize(
    ("code", "number"),
    [
        ("cancelled", 1405),
        ("render_failed", 1403),
        ("out_of_memory", 1403),
        ("storage_failed", 5003),
        ("safety_check_failed", 5000),
        ("attempts_exhausted", 5000),
        ("preparation_failed", 5000),
        ("internal_error", 5000),
        ("storage_unavailable", 5003),
        ("storage_refused", 5003),
        ("file_download_error", 1402),
        ("image_load_error", 1401),
        ("image_too_small", 1401),
        ("image_too_large", 1401),
        ("file_too_large", 1401),
        ("unsupported_image_format", 1401),
        ("start_timeout", 5003),
        ("render_timeout", 1403),
        ("client_disconnected", 1405),
    ],
)
def test_a_failed_prediction_tells_why(code: str, number: int) -> None:
    prediction = wavespeed.prediction(a_job(State.FAILED, code=code, error="It did not work."), LINKS)

    assert (prediction["status"], prediction["code"], prediction["error"]) == ("failed", number, "It did not work.")
    assert (prediction["outputs"], prediction["timings"]) == ([], {"inference": 0})


def test_a_flagged_image_is_no_moderated_request() -> None:
    """1200 would say that there is no image; here there is one, blacked out."""
    result = wavespeed.prediction(a_job(State.COMPLETED, result=a_result(flagged=(True,))), LINKS)

    assert (result["status"], result["code"], result["has_nsfw_contents"]) == ("completed", 0, [True])


def test_inline_outputs_are_the_images_in_bare_base64() -> None:
    result = a_result()
    (output,) = wavespeed.prediction(a_job(State.COMPLETED, result=result, inline=True), LINKS)["outputs"]

    assert base64.b64decode(output, validate=True) == result.images[0].key.encode()


def no_content(key: str) -> bytes:
    raise StorageError


def test_an_image_that_cannot_be_read_is_an_error_and_no_empty_output() -> None:
    links = Links(BASE, file=LINKS.file, content=no_content)

    assert wavespeed.prediction(a_job(inline=True), links)["outputs"] == []
    with pytest.raises(StorageError):
        wavespeed.prediction(a_job(State.COMPLETED, inline=True), links)


@pytest.mark.parametrize("state", sorted(TERMINAL))
def test_a_held_call_gets_the_end_of_its_job(state: State) -> None:
    assert wavespeed.held_answer(a_job(state), LINKS) == wavespeed.answer(a_job(state), LINKS)


@pytest.mark.parametrize("state", sorted(set(State) - TERMINAL))
def test_a_call_that_times_out_has_the_message_that_the_sdk_expects(state: State) -> None:
    result = wavespeed.held_answer(a_job(state), LINKS)["data"]

    assert (result["id"], result["status"], result["code"], result["outputs"]) == (JOB_ID, "processing", 5004, [])
    assert result["error"].startswith("Sync mode timed out")
    assert f"Prediction ID: {JOB_ID}." in result["error"]
    assert result["error"].endswith(f"Query the result later at: {result['urls']['get']}")


def test_a_call_that_times_out_is_not_sent_again() -> None:
    """SDKs that may re-run a task do it where the text of the error has one of these words."""
    error = wavespeed.held_answer(a_job(), LINKS)["data"]["error"].lower()

    assert not [word for word in ("timeout", "connection", "http 5", "429") if word in error]


def test_a_page_shows_predictions_and_how_many_there_are() -> None:
    jobs = [a_job(State.COMPLETED), a_job(State.FAILED)]
    page = wavespeed.page(listed({"page": 2}), jobs, 505, LINKS)["data"]

    assert page == {"page": 2, "total": 505, "items": [wavespeed.prediction(job, LINKS) for job in jobs]}


def test_a_page_holds_no_images() -> None:
    """A hundred of them would not fit into an answer."""
    result = a_result()
    page = wavespeed.page(listed(), [a_job(State.COMPLETED, result=result, inline=True)], 1, LINKS)["data"]

    assert page["items"][0]["outputs"] == [f"{BASE}/files/{result.images[0].key}"]


def test_a_webhook_has_the_prediction_and_its_input() -> None:
    asked = read(prompt="a red fox", size="300*400", seed=7, num_inference_steps=4, output_format="png")
    request = asked.order.request
    job = a_job(State.COMPLETED, request=request)

    body: Any = wavespeed.webhook_body(job, A_DUE, LINKS)

    assert {name: body[name] for name in body if name != "input"} == wavespeed.prediction(job, LINKS)
    assert body["input"] == {
        "prompt": "a red fox",
        "size": "300*400",
        "num_inference_steps": 4,
        "guidance_scale": 3.5,
        "seed": 7,
        "output_format": "png",
    }


def test_the_input_in_a_webhook_can_be_submitted_again() -> None:
    request = read(size="300*400", guidance_scale=5).order.request

    assert read(**wavespeed.webhook_body(a_job(request=request), A_DUE, LINKS)["input"]).order.request == request


@pytest.mark.parametrize(("source", "url"), [(FOX, FOX), ("0-input-0-1.png", f"{BASE}/files/0-input-0-1.png")])
@pytest.mark.parametrize("strength", [0, 0.3])
def test_a_webhook_names_the_image_by_its_url(source: str, url: str, strength: float) -> None:
    """The caller's, or where the farm keeps it; never its bytes."""
    asked = read(model=IMAGE, strength=strength, image=url)
    request = asked.order.request.model_copy(update={"sources": (source,), "inputs": ("0-input-1-2.png",)})

    given = wavespeed.webhook_body(a_job(request=request), A_DUE, LINKS)["input"]

    assert (given["image"], given["strength"]) == (url, strength)
    assert read(model=IMAGE, **given) == asked


def test_a_webhook_names_no_image_that_is_forgotten() -> None:
    request = read(model=IMAGE).order.request

    assert "image" not in wavespeed.webhook_body(a_job(request=request), A_DUE, LINKS)["input"]


def test_a_rewritten_prompt_is_shown_and_the_callers_own_was_asked_for() -> None:
    asked = read(enhance_prompt=True)
    rewritten = asked.order.request.model_copy(
        update={"prompt": "a red fox in fresh snow", "original_prompt": "a fox", "enhance": False}
    )

    body = wavespeed.webhook_body(a_job(State.COMPLETED, request=rewritten), A_DUE, LINKS)

    assert (body["prompt"], body["input"]["prompt"]) == ("a red fox in fresh snow", "a fox")
    assert read(**body["input"]) == asked


def test_a_prompt_that_waits_to_be_rewritten_was_asked_to_be() -> None:
    asked = read(enhance_prompt=True)

    assert read(**wavespeed.webhook_body(a_job(request=asked.order.request), A_DUE, LINKS)["input"]) == asked


def test_ids_to_delete_are_each_taken_once() -> None:
    assert wavespeed.read_deletion({"ids": ["b", "a", "b"]}) == ["b", "a"]


@pytest.mark.parametrize(
    ("sent", "named"),
    [
        ({}, "ids"),
        ({"ids": None}, "ids"),
        ({"ids": []}, "ids"),
        ({"ids": "a"}, "ids"),
        ({"ids": [5]}, "ids.0"),
        ({"ids": ["a"] * 101}, "ids"),
        ({"ids": ["a"], "all": True}, "all"),
    ],
    ids=brief,
)
def test_an_invalid_deletion_is_refused_by_name(sent: dict[str, Any], named: str) -> None:
    with pytest.raises(InvalidRequest) as caught:
        wavespeed.read_deletion(sent)
    assert [problem.field for problem in caught.value.problems] == [named]


def test_a_time_of_whole_seconds_is_written_with_milliseconds() -> None:
    prediction = wavespeed.prediction(a_job(created_us=CREATED_US - CREATED_US % 1_000_000), LINKS)

    assert prediction["created_at"] == "2026-01-02T03:04:05.000Z"


@pytest.mark.parametrize(
    ("status", "error", "number"),
    [
        (400, InvalidRequest([Problem("prompt", "required", "missing")]), 1400),
        (400, InvalidRequest([Problem("seed", "too small", "ge")]), 1401),
        (400, InvalidRequest([Problem("image", "not there", "file_download_error")]), 1402),
        (400, InvalidRequest([Problem("image", "no image", "image_load_error")]), 1401),
        (400, InvalidRequest([Problem("image", "no", "file_download_error"), Problem("seed", "s", "ge")]), 1401),
        (400, InvalidRequest([Problem("prompt", "required", "missing"), Problem("seed", "small", "ge")]), 1401),
        (401, Unauthorized(), 401),
        (403, Forbidden(), 403),
        (404, NotFound(), 404),
        (404, UnknownModel(), 404),
        (400, ModelNotServed(), 1401),
        (422, IdempotencyConflict(), 1401),
        (429, QueueFull(), 5003),
        (429, ConcurrencyLimitReached(), 5003),
        (500, FarmError(), 5000),
        (500, StorageError(), 5000),
        (503, StoreUnavailable(), 5003),
    ],
    ids=brief,
)
def test_an_error_bears_the_status_and_wavespeeds_own_number(status: int, error: FarmError, number: int) -> None:
    body = wavespeed.problem(status, error)

    assert (body["code"], body["data"]["code"]) == (status, number)
    assert body["message"] == body["error"] == body["data"]["error"] == str(error)
    assert body["error_code"] == error.code


def test_a_full_queue_is_no_bad_parameter() -> None:
    """1400 and 1401 mean an invalid request, which clients never retry."""
    assert wavespeed.problem(429, QueueFull())["data"]["code"] not in (1400, 1401)


def test_a_failed_download_has_the_answer_of_wavespeeds_page_of_errors() -> None:
    page = golden.load("wavespeed-errors")
    result = wavespeed.prediction(a_job(State.FAILED, code="file_download_error", error="not there"), LINKS)

    assert result.items() >= page["failed"].items()
    assert set(page["fields_of_failed"]) <= result.keys()
    assert result["error"] == "not there"


@pytest.mark.parametrize("code", JOB_FAILURES)
def test_every_failure_has_a_number_of_the_page_of_errors(code: str) -> None:
    page = golden.load("wavespeed-errors")
    result = wavespeed.prediction(a_job(State.FAILED, code=code, error="why"), LINKS)

    assert result["code"] in (page["client_errors"] | page["server_errors"]).values()
