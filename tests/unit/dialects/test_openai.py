"""OpenAI's dialect for the farm's own models: each field's effect or refusal, its answers, and the errors of `/v1`."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import replace
from typing import Any, cast, get_type_hints

import pytest
from openai.types.image_edit_params import ImageEditParamsBase
from openai.types.image_generate_params import ImageGenerateParamsBase

from farm.dialects import fal, native, openai, siraya
from farm.dialects.links import Links
from farm.dialects.openai_common import (
    NON_TEXT_FIELDS,
    Call,
    Failed,
    ParsedCall,
    call_facts,
    error_response,
    failure,
    failure_statuses,
    form_fields,
    timed_out,
)
from farm.dialects.openai_common import REFUSED as NOT_OFFERED
from farm.domain.catalogue import MODELS
from farm.domain.error_codes import Code
from farm.domain.errors import (
    ConcurrencyLimitReached,
    FarmError,
    Forbidden,
    InvalidRequest,
    NotReady,
    Problem,
    QueueFull,
    StoreFull,
    StoreUnavailable,
    Unauthorized,
    UnknownModel,
)
from farm.domain.job import Source, State
from tests.unit.dialects.endpoints import DEFAULT_SEED, brief
from tests.unit.dialects.samples import BASE, CREATED_US, JOB_ID, LINKS, a_job, a_request, a_result

URL = "https://a.example/a.png"
FILE = b"\x89PNG"
IMAGE_FIELDS = ("image", "image_url", "image_urls", "images")


def edit(model: str, *files: bytes, **sent: Any) -> ParsedCall:
    named = [("image", file) for file in files]
    return openai.edit({"model": model, "prompt": "a fox"} | sent, named, default_seed=DEFAULT_SEED)


def refused(read: Callable[[], ParsedCall]) -> list[str]:
    """Return the fields that a refusal names."""
    with pytest.raises(InvalidRequest) as caught:
        read()
    return [problem.field for problem in caught.value.problems]


def test_several_images_are_looked_at_only_as_far_as_is_allowed() -> None:
    with pytest.raises(InvalidRequest) as caught:
        openai.edit({"model": "kontext", "prompt": "a fox", "image_urls": [1] * 1000}, [], default_seed=DEFAULT_SEED)

    assert len(caught.value.problems) <= 6


@pytest.mark.parametrize(
    ("params", "schemas"),
    [
        (ImageGenerateParamsBase, (openai.SrpoGeneration, openai.KontextGeneration)),
        (ImageEditParamsBase, (openai.SrpoEdit, openai.KontextEdit)),
    ],
)
def test_everything_that_openais_library_can_send_is_decided(params: Any, schemas: tuple[type[Call], ...]) -> None:
    names = {*get_type_hints(params), "stream"}

    for schema in schemas:
        assert names - set(NOT_OFFERED) <= set(schema.model_fields)
    assert set(NOT_OFFERED).isdisjoint(openai.SrpoEdit.model_fields)


def test_every_id_is_the_farms_own() -> None:
    ids = {model_id for model in MODELS for model_id in model.of("openai")}

    assert {*openai.GENERATES, *openai.EDITS} == ids == {model.name for model in MODELS}


@pytest.mark.parametrize(
    ("model", "files", "meant"),
    [
        ("srpo", 1, "srpo-image-to-image"),
        ("srpo-image-to-image", 1, "srpo-image-to-image"),
        ("kontext", 1, "kontext"),
        ("kontext", 2, "kontext-multi"),
        ("kontext", 4, "kontext-multi"),
        ("kontext-multi", 1, "kontext-multi"),
        ("kontext-multi", 4, "kontext-multi"),
    ],
)
def test_the_model_follows_from_its_id_and_the_number_of_images(model: str, files: int, meant: str) -> None:
    order = edit(model, *[FILE] * files).order

    assert (order.endpoint, order.request.model, len(order.sources)) == (model, meant, files)


@pytest.mark.parametrize(("model", "files"), [("srpo", 2), ("kontext", 5), ("kontext-multi", 5)])
def test_more_images_than_a_model_takes_are_refused(model: str, files: int) -> None:
    assert refused(lambda: edit(model, *[FILE] * files)) == ["image"]
    assert refused(lambda: edit(model, image_urls=[URL] * files)) == ["image_urls"]


#: How images are named, and what becomes of it.
NAMED: list[tuple[dict[str, Any], tuple[Source, ...]]] = [
    ({"image": URL}, (Source("image", url=URL),)),
    ({"image": [URL]}, (Source("image", url=URL),)),
    ({"image": [URL, "data:,x"]}, (Source("image.0", url=URL), Source("image.1", url="data:,x"))),
    ({"image_url": URL}, (Source("image_url", url=URL),)),
    ({"image_urls": [URL]}, (Source("image_urls", url=URL),)),
    ({"image_urls": ["data:,x", URL]}, (Source("image_urls.0", url="data:,x"), Source("image_urls.1", url=URL))),
    ({"images": [{"image_url": URL}]}, (Source("images", url=URL),)),
    (
        {"images": [{"image_url": "data:,x"}, {"image_url": URL}]},
        (Source("images.0", url="data:,x"), Source("images.1", url=URL)),
    ),
    ({"image_url": URL, "image": None, "image_urls": [], "images": []}, (Source("image_url", url=URL),)),
]
#: Images that are named wrongly, and the name that the refusal must give.
NOT_NAMED: list[tuple[dict[str, Any], str]] = [
    ({}, "image"),
    ({"image": []}, "image"),
    ({"image_urls": []}, "image"),
    ({"image": 5}, "image"),
    ({"image": ""}, "image.0"),
    ({"image": [URL, 5]}, "image.1"),
    ({"image_url": ""}, "image_url"),
    ({"image_url": [URL]}, "image_url"),
    ({"image_urls": {"a": URL}}, "image_urls"),
    ({"images": [{}]}, "images.0.image_url"),
    ({"images": [{"image_url": URL, "file_id": "file-1"}]}, "images.0.file_id"),
    ({"images": [{"image_url": ""}]}, "images.0.image_url"),
    ({"images": [URL]}, "images.0"),
    ({"images": [{"image_url": URL}], "image": URL}, "images"),
    ({"image": URL, "image_url": URL}, "image_url"),
    ({"image": URL, "image_urls": [URL]}, "image_urls"),
]


@pytest.mark.parametrize(("sent", "sources"), NAMED, ids=brief)
def test_images_are_named_in_one_of_four_ways(sent: dict[str, Any], sources: tuple[Source, ...]) -> None:
    assert edit("kontext", **sent).order.sources == sources


@pytest.mark.parametrize(("sent", "named"), NOT_NAMED, ids=brief)
def test_images_that_are_not_named_so_are_refused(sent: dict[str, Any], named: str) -> None:
    assert refused(lambda: edit("kontext", **sent)) == [named]


@pytest.mark.parametrize("field", IMAGE_FIELDS)
def test_every_way_to_name_images_is_tried_here(field: str) -> None:
    assert field in {name for sent, _ in NAMED for name in sent}
    assert field in {name.partition(".")[0] for _, name in NOT_NAMED}


def test_files_are_the_images_in_their_order() -> None:
    assert edit("kontext", b"1", b"2").order.sources == (
        Source("image.0", content=b"1"),
        Source("image.1", content=b"2"),
    )
    assert edit("srpo", b"1").order.sources == (Source("image", content=b"1"),)


def test_files_and_named_images_at_once_are_refused() -> None:
    assert refused(lambda: edit("kontext", FILE, image_url=URL)) == ["image_url"]


@pytest.mark.parametrize("name", ["mask", "markup", "prompt", "image_url", "images"])
def test_any_other_file_is_refused_by_name(name: str) -> None:
    body = {"model": "kontext", "prompt": "a fox"}

    assert refused(lambda: openai.edit(body, [("image", FILE), (name, FILE)], default_seed=DEFAULT_SEED)) == [name]


def test_numbers_and_switches_of_a_form_are_read_as_such() -> None:
    texts = {"prompt": "12", "n": "4", "strength": "0.5", "sync_mode": "true", "seed": "x", "user": "1"}
    sizes = {"image_size": {"width": "512"}}

    assert form_fields(texts | sizes) == {
        "prompt": "12",
        "n": 4,
        "strength": 0.5,
        "sync_mode": True,
        "seed": "x",
        "user": "1",
        "image_size": {"width": 512},
    }


@pytest.mark.parametrize(("text", "meant"), [("true", True), ("False", False), ("True", True)])
def test_a_form_of_python_writes_booleans_in_its_own_way(text: str, meant: bool) -> None:
    assert form_fields({"stream": text, "user": text}) == {"stream": meant, "user": text}


@pytest.mark.parametrize("text", ["", "null"])
def test_an_empty_field_of_a_form_is_null_but_a_prompt_is_its_text(text: str) -> None:
    assert form_fields({"n": text, "quality": text, "prompt": text}) == {"n": None, "quality": None, "prompt": text}


@pytest.mark.parametrize("text", ['"4"', "[4]", "{}", " null", "4 5", "1e999x"])
def test_a_form_field_that_is_not_a_number_stays_text(text: str) -> None:
    assert form_fields({"n": text}) == {"n": text}


@pytest.mark.parametrize("schema", [openai.SrpoEdit, openai.KontextEdit])
def test_every_number_and_switch_is_known_as_such(schema: type[Call]) -> None:
    fields = schema.model_json_schema()["properties"]
    kinds = {name: {part.get("type") for part in (field, *field.get("anyOf", ()))} for name, field in fields.items()}

    assert {name for name, kind in kinds.items() if kind & {"integer", "number", "boolean"}} <= NON_TEXT_FIELDS


def test_an_answer() -> None:
    result = a_result(images=2)
    job = a_job(State.COMPLETED, request=a_request(output_format="png", images=2))

    assert openai.answer(job, result, "url", LINKS) == {
        "created": CREATED_US // 1_000_000 + 3,
        "data": [{"url": f"{BASE}/files/{image.key}"} for image in result.images],
        "output_format": "png",
        "size": "256x256",
        "seed": 7,
        "has_nsfw_concepts": [False, False],
    }


def test_base64_takes_the_urls_place() -> None:
    result = a_result()

    (item,) = openai.answer(a_job(State.COMPLETED), result, "b64_json", LINKS)["data"]

    assert item == {"b64_json": base64.b64encode(result.images[0].key.encode()).decode()}


def test_a_url_and_base64_are_answered_together() -> None:
    """LibreChat and the AI SDK read base64, LangChain the URL, and neither says so."""
    result = a_result()

    (item,) = openai.answer(a_job(State.COMPLETED), result, "both", LINKS)["data"]

    key = result.images[0].key
    assert item == {"url": f"{BASE}/files/{key}", "b64_json": base64.b64encode(key.encode()).decode()}


def test_the_size_of_an_answer_is_that_of_its_images() -> None:
    job = a_job(State.COMPLETED, request=a_request(output_size=(1024, 1536)))

    assert openai.answer(job, a_result(), "url", LINKS)["size"] == "1024x1536"


def test_a_rewritten_prompt_is_returned() -> None:
    job = a_job(State.COMPLETED, request=a_request(prompt="a fox in the snow", original_prompt="a fox"))

    assert openai.answer(job, a_result(), "url", LINKS)["data"][0]["revised_prompt"] == "a fox in the snow"


def test_flags_are_those_of_images_that_were_checked() -> None:
    """Without a check there is nothing to tell, where the provider's own answer has no such field."""
    checked, unchecked = (a_job(State.COMPLETED, request=a_request(safety=safety)) for safety in (True, False))

    for dialect in (openai, siraya):
        assert dialect.answer(checked, a_result(), "url", LINKS)["has_nsfw_concepts"] == [False]
        assert "has_nsfw_concepts" not in dialect.answer(unchecked, a_result(), "url", LINKS)
    unchecked = replace(unchecked, result=a_result())
    assert native.view(unchecked, LINKS)["has_nsfw_concepts"] == []
    assert fal.output(unchecked, a_result(), LINKS)["has_nsfw_concepts"] == [False]


def test_warnings_are_returned() -> None:
    answer = openai.answer(a_job(State.COMPLETED), a_result(warnings=("The prompt is long.",)), "url", LINKS)

    assert answer["warnings"] == ["The prompt is long."]


TWO = InvalidRequest([Problem("size", "no size", "size_parsing", "x"), Problem("n", "too many", "less_than_equal")])


@pytest.mark.parametrize(
    ("status", "error", "result"),
    [
        (422, TWO, (400, "invalid_request_error", "size", "size_parsing")),
        (
            422,
            InvalidRequest([Problem("", "no JSON", "json_invalid")]),
            (400, "invalid_request_error", None, "json_invalid"),
        ),
        (401, Unauthorized(), (401, "invalid_request_error", None, "invalid_api_key")),
        (403, Forbidden(), (403, "permission_error", None, "forbidden")),
        (404, UnknownModel(), (404, "invalid_request_error", "model", "model_not_found")),
        (429, QueueFull(), (429, "rate_limit_error", None, "rate_limit_exceeded")),
        (429, StoreFull(), (429, "rate_limit_error", None, "rate_limit_exceeded")),
        (429, ConcurrencyLimitReached(), (429, "rate_limit_error", None, "rate_limit_exceeded")),
        (503, StoreUnavailable(), (503, "server_error", None, "store_unavailable")),
        (503, NotReady(), (503, "server_error", None, "not_ready")),
        (500, FarmError(), (500, "server_error", None, "internal_error")),
    ],
    ids=brief,
)
def test_an_error_is_one_that_all_clients_read(status: int, error: FarmError, result: tuple[Any, ...]) -> None:
    found = error_response(status, error)

    code, kind, param, slug = result
    assert found.status == found.body["statusCode"] == code
    assert found.body["error"] == {"message": str(error), "type": kind, "param": param, "code": slug}
    assert found.body["message"] == str(error)


def test_an_error_says_of_which_call_it_is() -> None:
    assert call_facts("/v1/images/edits", "r-1", CREATED_US) == {
        "path": "/v1/images/edits",
        "requestId": "r-1",
        "timestamp": "2026-01-02T03:04:05.678Z",
    }


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("image_load_error", 400),
        ("image_too_small", 400),
        ("image_too_large", 400),
        ("file_too_large", 400),
        ("file_download_error", 400),
        ("unsupported_image_format", 400),
        (Code.CANCELLED, 499),
        (Code.CLIENT_DISCONNECTED, 499),
        (Code.START_TIMEOUT, 504),
        (Code.RENDER_TIMEOUT, 504),
        (Code.ATTEMPTS_EXHAUSTED, 500),
        (Code.PREPARATION_FAILED, 500),
        ("render_failed", 500),
        ("never heard of", 500),
    ],
)
def test_a_failed_job_tells_why(code: str, status: int) -> None:
    result, error = failure(a_job(State.FAILED, code=code, error="It did not work."))

    assert (result, error.code, error.param, str(error)) == (status, code, None, "It did not work.")


@pytest.mark.parametrize(
    ("error", "param"),
    [
        ("image_urls.1: it is no image", "image_urls.1"),
        ("image_urls.1 (a.example): it is no image", "image_urls.1"),
        ("image_urls.10: it is no image", None),
        ("It is no image", None),
    ],
)
def test_an_image_that_cannot_be_used_is_named(error: str, param: str | None) -> None:
    request = a_request(source_fields=("image_urls.0", "image_urls.1"))

    _, result = failure(a_job(State.FAILED, request=request, code="image_load_error", error=error))

    assert result.param == param


@pytest.mark.parametrize("status", failure_statuses())
def test_no_failure_invites_to_come_again(status: int) -> None:
    """Some clients send a call again for these whatever else an answer says."""
    assert status not in (408, 409, 429)


def test_a_call_that_times_out_names_its_job() -> None:
    status, error = timed_out(JOB_ID, BASE)

    assert (status, error.code) == (504, "request_timeout")
    assert f"{BASE}/farm/v1/jobs/{JOB_ID}" in str(error)
    assert isinstance(error, Failed)


def test_an_image_that_cannot_be_read_is_an_error() -> None:
    def gone(key: str) -> bytes:
        raise FarmError

    with pytest.raises(FarmError):
        openai.answer(a_job(State.COMPLETED), a_result(), "b64_json", Links(BASE, file=cast(Any, gone), content=gone))
