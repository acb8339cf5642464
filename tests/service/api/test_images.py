"""`/v1`: generations, edits and models, in OpenAI's, AI/ML API's and Siraya's dialects."""

from __future__ import annotations

import base64
import io
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.app import MAX_BODY, create_app
from api.http.body import IMAGES_BODY
from farm.bootstrap import Farm, build
from farm.dialects import openai, openai_common
from farm.domain.job import Claimed, State
from farm.settings import Settings
from tests.farms import wait_for
from tests.service.api.calls import EDITS, GENERATIONS, UnreadableStorage, openai_error
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.unit.dialects import golden

AIMLAPI, SIRAYA = golden.load("aimlapi-flux-srpo"), golden.load("siraya-flux-1-srpo")
MODELS = {"srpo": 200, "flux/srpo": 201, "flux/srpo/text-to-image": 201, "flux-1-srpo-text-to-image": 200}
EVERYTHING = "srpo,srpo-image-to-image,kontext,kontext-multi,kontext-text-to-image"
DATA_URI = "data:image/png;base64,"


def png(color: str = "red") -> bytes:
    with io.BytesIO() as file:
        Image.new("RGB", (64, 64), color).save(file, "PNG")
        return file.getvalue()


def a_file(content: bytes | None = None) -> tuple[io.BytesIO, str]:
    return io.BytesIO(content or png()), "in.png"


@pytest.fixture
def full(api: FlaskClient, farm: Farm) -> FlaskClient:
    """Return an API whose worker serves every model."""
    farm.store.renew("w", FACTS | {"models": EVERYTHING}, [])
    return api


@pytest.fixture
def patient(farm: Farm) -> Callable[..., FlaskClient]:
    """Make a client of an API that holds calls for so many seconds."""

    def make(seconds: float, *, max_held_calls: int = 4) -> FlaskClient:
        farm.store.renew("w", FACTS | {"models": EVERYTHING}, [])
        settings = farm.settings.model_copy(update={"hold_seconds": seconds})
        app = create_app(
            replace(farm, settings=settings), base=BASE, with_keys=False, max_streams=1, max_held_calls=max_held_calls
        )
        return app.test_client()

    return make


def take(farm: Farm, model: str = "srpo") -> Claimed:
    """Claim the one job that waits, as soon as there is one."""
    (job,) = wait_for(lambda: farm.store.claim("w1", [model]).batch.jobs)
    return job


def finish(farm: Farm, job: Claimed) -> None:
    result = jobs.result(job)
    for image in result.images:
        farm.storage.put(image.key, b"an image")
    assert farm.store.complete(job, result)


def call_while(act: Callable[[], object], call: Callable[[], TestResponse]) -> TestResponse:
    """Return the answer to a call during which `act` runs."""
    with ThreadPoolExecutor(1) as pool:
        answer = pool.submit(call)
        act()
        return answer.result()


def generated(api: FlaskClient, farm: Farm, **fields: Any) -> TestResponse:
    """Return the answer to a call whose images are rendered."""
    body = {"model": "srpo", "prompt": "a red fox"} | fields
    return call_while(lambda: finish(farm, take(farm)), lambda: api.post(GENERATIONS, json=body))


def all_jobs(farm: Farm) -> int:
    return sum(1 for _ in farm.redis.scan_iter("srpo:job:*"))


# Generations


@pytest.mark.parametrize(("model", "success"), MODELS.items())
def test_each_dialects_call_is_answered_with_its_images(api: FlaskClient, farm: Farm, model: str, success: int) -> None:
    response = generated(api, farm, model=model, n=2, seed=7)

    body = response.get_json()
    assert (response.status_code, body["seed"], len(body["data"])) == (success, 7, 2)
    for item in body["data"]:
        assert api.get(item["url"].removeprefix(BASE), buffered=True).data == b"an image"
        assert ("b64_json" in item) == (model == "srpo")
    job = jobs.record(farm.store, response.headers["x-request-id"])
    assert (job.endpoint, job.state) == (model, State.COMPLETED)


@pytest.mark.parametrize(
    ("model", "dialect", "fields"),
    [
        ("srpo", "openai", {"created", "data", "output_format", "size", "seed", "has_nsfw_concepts"}),
        ("flux/srpo", "aimlapi", set(AIMLAPI["answer"])),
        ("flux-1-srpo-text-to-image", "siraya", {"created", "data", "seed"}),
    ],
)
def test_the_models_id_decides_the_dialect(
    api: FlaskClient, farm: Farm, model: str, dialect: str, fields: set[str]
) -> None:
    response = generated(api, farm, model=model)

    assert set(response.get_json()) == fields
    assert jobs.record(farm.store, response.headers["x-request-id"]).dialect == dialect


@pytest.mark.parametrize(
    "body", [AIMLAPI["minimal"], AIMLAPI["quick_example"], SIRAYA["curl"], SIRAYA["minimal"]], ids=lambda b: str(b)[:60]
)
def test_the_providers_own_examples_are_rendered(api: FlaskClient, farm: Farm, body: dict[str, Any]) -> None:
    response = generated(api, farm, **body)

    assert response.status_code == MODELS[body["model"]]
    assert jobs.record(farm.store, response.headers["x-request-id"]).request.prompt == body["prompt"]


@pytest.mark.parametrize("model", MODELS)
def test_images_may_come_in_the_answer(api: FlaskClient, farm: Farm, model: str) -> None:
    response = generated(api, farm, model=model, response_format="b64_json")

    (item,) = response.get_json()["data"]
    assert base64.b64decode(item["b64_json"], validate=True) == b"an image"
    assert "url" not in item
    assert jobs.record(farm.store, response.headers["x-request-id"]).inline


@pytest.mark.parametrize(
    ("setting", "fields"), [("both", {"url", "b64_json"}), ("url", {"url"}), ("b64_json", {"b64_json"})]
)
def test_a_setting_chooses_what_is_answered_without_response_format(
    open_api: Callable[..., FlaskClient], farm: Farm, setting: str, fields: set[str]
) -> None:
    """The images are kept as long as any: only a caller that asks for base64 has them for an hour."""
    api = open_api(settings=farm.settings.model_copy(update={"openai_response_format": setting}))

    response = generated(api, farm)

    assert [set(item) for item in response.get_json()["data"]] == [fields]
    assert not jobs.record(farm.store, response.headers["x-request-id"]).inline
    assert set(generated(api, farm, response_format="url").get_json()["data"][0]) == {"url"}


@pytest.mark.parametrize("model", MODELS)
def test_sync_mode_has_the_image_in_the_urls_place(api: FlaskClient, farm: Farm, model: str) -> None:
    (item,) = generated(api, farm, model=model, sync_mode=True).get_json()["data"]

    assert item["url"] == f"data:image/jpeg;base64,{base64.b64encode(b'an image').decode()}"


def test_without_a_seed_every_call_draws_one_and_tells_it(api: FlaskClient, farm: Farm) -> None:
    first, second = (generated(api, farm, model="flux/srpo").get_json()["seed"] for _ in range(2))

    assert first != second
    assert 1 <= min(first, second) <= max(first, second) <= 2**31 - 4


# Edits


def edited(api: FlaskClient, farm: Farm, **call: Any) -> tuple[TestResponse, str]:
    """Return the 504 of a call for an edit that is never prepared, and its job's id."""
    response = api.post(EDITS, **call)
    openai_error(response, 504)
    return response, response.headers["x-request-id"]


@pytest.mark.parametrize(
    ("model", "names", "meant"),
    [
        ("srpo", ["image"], "srpo-image-to-image"),
        ("kontext", ["image"], "kontext"),
        ("kontext", ["image[]"], "kontext"),
        ("kontext", ["image[]", "image[]", "image[]"], "kontext-multi"),
        ("kontext", ["image", "image"], "kontext-multi"),
        ("kontext", ["image[0]", "image[1]"], "kontext-multi"),
    ],
)
def test_files_of_a_form_become_the_jobs_inputs(
    patient: Callable[..., FlaskClient], farm: Farm, model: str, names: list[str], meant: str
) -> None:
    contents = [png("red"), png("green"), png("blue")][: len(names)]
    data: dict[str, Any] = {"model": model, "prompt": "12", "n": "2", "seed": "7", "guidance_scale": "2.5"}
    for name, content in zip(names, contents, strict=True):
        data.setdefault(name, []).append(a_file(content))

    _, job_id = edited(patient(0.05), farm, data=data)

    request = jobs.record(farm.store, job_id).request
    assert (request.model, request.prompt, request.images, request.seed, request.guidance) == (meant, "12", 2, 7, 2.5)
    assert [farm.storage.read(source) for source in request.sources] == contents


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        ({"image": DATA_URI + base64.b64encode(png()).decode()}, 1),
        ({"image_url": "https://a.example/a.png"}, 1),
        ({"image_urls": ["https://a.example/a.png", "https://a.example/b.png"]}, 2),
        ({"images": [{"image_url": "https://a.example/a.png"}]}, 1),
    ],
    ids=lambda value: str(value)[:20],
)
def test_images_may_be_named_in_json(
    patient: Callable[..., FlaskClient], farm: Farm, fields: dict[str, Any], count: int
) -> None:
    _, job_id = edited(patient(0.05), farm, json={"model": "kontext", "prompt": "a"} | fields)

    request = jobs.record(farm.store, job_id).request
    assert (len(request.sources), request.model) == (count, "kontext" if count == 1 else "kontext-multi")


def test_a_forms_images_may_be_named_too(patient: Callable[..., FlaskClient], farm: Farm) -> None:
    data = {"model": "kontext", "prompt": "a", "image_urls[]": ["https://a.example/a.png", "https://a.example/b.png"]}

    _, job_id = edited(patient(0.05), farm, data=data, content_type="multipart/form-data")

    assert jobs.record(farm.store, job_id).request.sources == tuple(data["image_urls[]"])


@pytest.mark.parametrize("unset", ["", "null"])
def test_an_unset_field_of_a_form_counts_as_absent(patient: Callable[..., FlaskClient], farm: Farm, unset: str) -> None:
    """Forms of HTML send empty fields, OpenAI's JavaScript library `null`, and browsers a file that nobody chose."""
    fields = set(openai.SrpoEdit.model_fields) - {"model", "prompt"} | openai_common.REFUSED.keys()
    data = {"model": "srpo", "prompt": "null"} | dict.fromkeys(fields, unset) | {"image": a_file()}

    _, job_id = edited(patient(0.05), farm, data=data | {"mask": (io.BytesIO(), "")})

    request = jobs.record(farm.store, job_id).request
    assert (request.prompt, request.images, len(request.sources)) == ("null", 1, 1)


def test_an_object_in_a_form_is_written_with_brackets(patient: Callable[..., FlaskClient], farm: Farm) -> None:
    """OpenAI's library sends extra parameters in this form."""
    sizes = {"image_size[width]": "512", "image_size[height]": "256"}

    _, job_id = edited(patient(0.05), farm, data={"model": "srpo", "prompt": "a", "image": a_file()} | sizes)

    request = jobs.record(farm.store, job_id).request
    assert (request.width, request.height, request.sizing) == (512, 256, "asked")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"mask": a_file}, "mask"),
        ({"other": a_file}, "other"),
        ({"n": "5"}, "n"),
        ({"n": "two"}, "n"),
        ({"n": ["1", "2"]}, "n"),
        ({"nonsense": ""}, "nonsense"),
        ({"prompt": ""}, "prompt"),
        ({"model": "null"}, "model"),
        ({"sync_mode": "yes"}, "sync_mode"),
        ({"image[a]": "x", "image[b]": "y"}, "image"),
        ({"n": "1", "n[x]": "1"}, "n"),
        ({"n[x]": "1", "n": "1"}, "n"),
        ({"n": "[" * 100_000}, "n"),
        ({"prompt": ["a", "b"]}, "prompt"),
        ({"image[]": a_file, "image": "https://a.example/a.png"}, "image"),
    ],
)
def test_a_wrong_field_of_a_form_is_refused_by_name(full: FlaskClient, fields: dict[str, Any], named: str) -> None:
    parts = {name: value() if callable(value) else value for name, value in fields.items()}
    images = {} if any(name.startswith("image") for name in fields) else {"image": a_file()}

    response = full.post(
        EDITS, data={"model": "kontext", "prompt": "a"} | images | parts, content_type="multipart/form-data"
    )

    assert openai_error(response, 400)["param"] == named


@pytest.mark.parametrize(
    ("content_type", "data"),
    [
        ("multipart/form-data", b"x"),
        ("multipart/form-data; boundary=x", b""),
        ("multipart/form-data; boundary=x", b"garbage"),
        ("multipart/form-data; boundary=x", b"--x\r\nnonsense\r\n\r\nx\r\n--x--"),
        ("multipart/form-data; boundary=\xff", b"--x--"),
        ("multipart/form-data; boundary*=utf-8''%e2%82%ac", b"--x--"),
        ("multipart/form-data; boundary=x", b"--x\r\nContent-Disposition: form-data\r\n\r\nx\r\n--x--"),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="image"; filename="a"\r\n\r\ncut off',
        ),
        (
            "multipart/form-data; boundary=x",
            b'--x\r\nContent-Disposition: form-data; name="a"\r\n\r\nx\r\n' * 200 + b"--x--",
        ),
        ("application/json", b"{"),
        ("application/json", b"[]"),
        ("text/plain", b""),
    ],
)
def test_a_body_that_makes_no_sense_is_400(full: FlaskClient, content_type: str, data: bytes) -> None:
    assert openai_error(full.post(EDITS, data=data, content_type=content_type), 400)["type"] == "invalid_request_error"


def test_the_head_of_a_part_has_its_bound(full: FlaskClient) -> None:
    """The time to find its end grows faster than its length."""
    head = b'--x\r\nContent-Disposition: form-data; name="' + b"a" * 3 * MAX_BODY

    response = full.post(EDITS, data=head, content_type="multipart/form-data; boundary=x")

    assert openai_error(response, 400)["code"] == "form_invalid"
    assert "the head of a part has more than" in response.get_json()["message"]


def test_a_text_that_is_no_text_is_refused_by_name(full: FlaskClient) -> None:
    data = b'--x\r\nContent-Disposition: form-data; name="prompt"\r\n\r\n\xff\r\n--x--'

    response = full.post(EDITS, data=data, content_type="multipart/form-data; boundary=x")

    assert openai_error(response, 400)["param"] == "prompt"


def test_a_side_that_a_form_gives_twice_is_refused(full: FlaskClient) -> None:
    data = {"model": "srpo", "prompt": "a", "image": a_file(), "image_size[width]": ["512", "256"]}

    assert openai_error(full.post(EDITS, data=data), 400)["param"] == "image_size.width"


@pytest.mark.parametrize("way", ["json", "form"])
def test_large_bodies_have_room_for_so_many_bytes_only(full: FlaskClient, way: str) -> None:
    capacity = full.application.extensions["body_memory"]
    assert capacity.free >= IMAGES_BODY
    text = "A" * 2 * MAX_BODY

    def edit() -> TestResponse:
        if way == "json":
            return full.post(EDITS, json={"model": "kontext", "prompt": "a", "image_url": DATA_URI + text})
        head = 'Content-Disposition: form-data; name="model"\r\n\r\nkontext\r\n--x\r\n'
        head += 'Content-Disposition: form-data; name="prompt"\r\n\r\na\r\n--x\r\n'
        head += 'Content-Disposition: form-data; name="image"; filename="a"\r\n\r\n'
        return full.post(EDITS, data=f"--x\r\n{head}{text}\r\n--x--", content_type="multipart/form-data; boundary=x")

    capacity.free = 3 * MAX_BODY
    assert [openai_error(edit(), 400)["code"] for _ in range(2)] == ["image_load_error"] * 2
    capacity.free = 2 * MAX_BODY
    response = edit()

    assert openai_error(response, 429)["code"] == "rate_limit_exceeded"
    assert response.headers["Retry-After"]
    assert capacity.free == 2 * MAX_BODY


def test_a_large_body_without_room_is_read_to_its_end(full: FlaskClient) -> None:
    """Many clients send all that they have before they read an answer."""
    full.application.extensions["body_memory"].free = 0
    stream = io.BytesIO(b"x" * 2 * MAX_BODY)

    response = full.post(EDITS, input_stream=stream, content_length=2 * MAX_BODY)

    assert openai_error(response, 429)["code"] == "rate_limit_exceeded"
    assert stream.read() == b""


def test_a_small_body_needs_no_room(full: FlaskClient) -> None:
    full.application.extensions["body_memory"].free = 0

    response = full.post(EDITS, json={"model": "kontext", "prompt": "a", "image_url": DATA_URI + "AAAA"})

    assert openai_error(response, 400)["code"] == "image_load_error"


@pytest.mark.parametrize("content", [b"", b"no image", png()[:40]])
def test_a_file_that_is_no_image_is_refused(full: FlaskClient, farm: Farm, content: bytes) -> None:
    response = full.post(EDITS, data={"model": "kontext", "prompt": "a", "image": (io.BytesIO(content), "in.png")})

    assert openai_error(response, 400)["param"] == "image"
    assert all_jobs(farm) == 0


def test_bodies_that_bring_images_may_be_large(full: FlaskClient, farm: Farm) -> None:
    """An image of some megabytes, which as a generation's body would be too large."""
    large = {"model": "srpo", "prompt": "a", "image_url": DATA_URI + "A" * 4 * MAX_BODY}

    assert openai_error(full.post(EDITS, json=large), 400)["param"] == "image_url"
    assert str(MAX_BODY) in openai_error(full.post(GENERATIONS, json=large), 413)["message"]


@pytest.mark.parametrize(
    ("path", "model", "other"),
    [
        (GENERATIONS, "srpo-image-to-image", EDITS),
        (GENERATIONS, "kontext-multi", EDITS),
        (EDITS, "flux/srpo", GENERATIONS),
        (EDITS, "flux-1-srpo-text-to-image", GENERATIONS),
        (EDITS, "kontext-text-to-image", GENERATIONS),
    ],
)
def test_a_model_at_the_wrong_path_is_refused_with_the_right_one(
    full: FlaskClient, path: str, model: str, other: str
) -> None:
    error = openai_error(full.post(path, json={"model": model, "prompt": "a"}), 400)

    assert error["param"] == "model"
    assert error["message"].endswith(other)


# Calls that are sent again


@pytest.mark.parametrize("header", [{}, {"X-Stainless-Retry-Count": "1"}])
def test_a_call_that_is_sent_again_after_a_504_goes_on_with_its_job(
    patient: Callable[..., FlaskClient], farm: Farm, header: dict[str, str]
) -> None:
    """The AI SDK does so twice, although the answer says that it should not."""
    api, body = patient(0.05), {"model": "srpo", "prompt": "a"}

    first, *others = [api.post(GENERATIONS, json=body, headers=header) for _ in range(3)]
    finish(farm, take(farm))
    last = api.post(GENERATIONS, json=body, headers=header)

    assert [answer.status_code for answer in (first, *others, last)] == [504, 504, 504, 200]
    assert {answer.headers["x-request-id"] for answer in (*others, last)} == {first.headers["x-request-id"]}
    assert api.post(GENERATIONS, json=body).headers["x-request-id"] != first.headers["x-request-id"]


@pytest.mark.parametrize("kind", ["form", "json"])
def test_an_edit_that_is_sent_again_after_a_504_goes_on_with_its_job(
    patient: Callable[..., FlaskClient], farm: Farm, kind: str
) -> None:
    """Each attempt of a form has a boundary of its own."""
    api, body = patient(0.05), {"model": "kontext", "prompt": "a"}
    image = DATA_URI + base64.b64encode(png()).decode()

    for number in range(3):
        in_form = {"data": body | {"image": a_file()}, "content_type": f"multipart/form-data; boundary=b{number}"}
        edited(api, farm, **(in_form if kind == "form" else {"json": body | {"image": image}}))

    assert len(farm.store.page(None, before_us=None, count=9)) == 1


@pytest.mark.parametrize("count", ["1", "2", "9" * 5000])
def test_a_call_whose_first_attempt_was_refused_makes_a_job(
    patient: Callable[..., FlaskClient], farm: Farm, count: str
) -> None:
    api, body = patient(5), {"model": "srpo", "prompt": "a"}

    def sent_again() -> str:
        header = {"X-Stainless-Retry-Count": count}
        post = partial(api.post, GENERATIONS, json=body, headers=header)
        return str(call_while(lambda: finish(farm, take(farm)), post).headers["x-request-id"])

    assert len({sent_again() for _ in range(3)}) == 3


def test_a_form_that_is_sent_again_is_the_same_call_whatever_separates_its_parts(
    patient: Callable[..., FlaskClient], farm: Farm
) -> None:
    api, key = patient(0.05), {"Idempotency-Key": "k"}

    def send(boundary: str, prompt: str = "a") -> TestResponse:
        data = {"model": "kontext", "prompt": prompt, "image": a_file()}
        return api.post(EDITS, data=data, content_type=f"multipart/form-data; boundary={boundary}", headers=key)

    first, again = send("xxx"), send("yyy")

    assert first.headers["x-request-id"] == again.headers["x-request-id"]
    assert openai_error(send("xxx", "b"), 422)["code"] == "idempotency_conflict"


def test_an_idempotency_key_gives_the_same_images(api: FlaskClient, farm: Farm) -> None:
    body, key = {"model": "srpo", "prompt": "a"}, {"Idempotency-Key": "k"}
    first = call_while(lambda: finish(farm, take(farm)), lambda: api.post(GENERATIONS, json=body, headers=key))

    assert api.post(GENERATIONS, json=body, headers=key).get_json() == first.get_json()
    assert openai_error(api.post(EDITS, json=body, headers=key), 400)["param"] == "image"


# What goes wrong


@pytest.mark.parametrize("model", MODELS)
def test_a_call_that_times_out_names_its_job(patient: Callable[..., FlaskClient], farm: Farm, model: str) -> None:
    response = patient(0.05).post(GENERATIONS, json={"model": model, "prompt": "a"})

    job_id = response.headers["x-request-id"]
    assert f"{BASE}/farm/v1/jobs/{job_id}" in openai_error(response, 504)["message"]
    # Sent again, it would be a second job.
    assert response.headers["X-Should-Retry"] == "false"
    assert jobs.record(farm.store, job_id).state == State.CREATED


@pytest.mark.parametrize(
    ("code", "status"), [("render_failed", 500), ("image_load_error", 400), ("attempts_exhausted", 500)]
)
def test_a_failed_job_is_answered_by_its_code(api: FlaskClient, farm: Farm, code: str, status: int) -> None:
    response = call_while(
        lambda: farm.store.fail(take(farm), code, "It did not work."),
        lambda: api.post(GENERATIONS, json={"model": "srpo", "prompt": "a"}),
    )

    error = openai_error(response, status)
    assert (error["message"], error["code"]) == ("It did not work.", code)
    assert response.headers["X-Should-Retry"] == "false"


def test_sirayas_errors_have_numbers(api: FlaskClient, farm: Farm) -> None:
    call = {"model": "flux-1-srpo-text-to-image", "prompt": "a"}
    failed = call_while(
        lambda: farm.store.fail(take(farm), "render_failed", "It did not work."),
        lambda: api.post(GENERATIONS, json=call),
    )

    assert openai_error(api.post(GENERATIONS, json=call | {"n": 9}), 400)["code"] == 400
    assert openai_error(failed, 500)["code"] == 500


def test_an_image_that_cannot_be_read_now_does_not_make_clients_ask_for_another(farm: Farm, tmp_path: Path) -> None:
    farm.store.renew("w", FACTS, [])
    unreadable = replace(farm, storage=UnreadableStorage(tmp_path))
    api = create_app(unreadable, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()

    response = generated(api, farm, response_format="b64_json")

    assert openai_error(response, 503)["code"] == "storage_unavailable"
    assert response.headers["X-Should-Retry"] == "false"
    assert "Retry-After" not in response.headers


def test_a_full_queue_says_when_to_come_back(redis_dir: Path, farm: Farm) -> None:
    small = build(Settings(queue_limit=1, hold_seconds=0.05), redis_dir, listens=True)
    small.store.renew("w", FACTS, [])
    api = create_app(small, base=BASE, with_keys=False, max_streams=1, max_held_calls=1).test_client()
    api.post(GENERATIONS, json={"model": "srpo", "prompt": "a"})

    response = api.post(GENERATIONS, json={"model": "srpo", "prompt": "b"})

    assert openai_error(response, 429)["type"] == "rate_limit_error"
    assert 1 <= int(response.headers["Retry-After"]) <= 60
    assert "X-Should-Retry" not in response.headers


@pytest.mark.parametrize("path", [GENERATIONS, EDITS])
@pytest.mark.parametrize("body", [{}, {"model": None}, {"model": 5}, {"model": ["srpo"]}], ids=str)
def test_a_missing_model_is_refused_with_what_is_served(full: FlaskClient, path: str, body: dict[str, Any]) -> None:
    error = openai_error(full.post(path, json={"prompt": "a"} | body), 400)

    assert error["param"] == "model"
    assert "flux-1-srpo-text-to-image" in error["message"]


@pytest.mark.parametrize("path", [GENERATIONS, EDITS])
@pytest.mark.parametrize("model", ["dall-e-3", "", "fal-ai/flux/srpo", "SRPO", "\ud800"])
def test_an_unknown_model_is_404_with_what_is_served(full: FlaskClient, path: str, model: str) -> None:
    error = openai_error(full.post(path, json={"model": model, "prompt": "a"}), 404)

    assert (error["param"], error["code"]) == ("model", "model_not_found")
    assert "flux/srpo" in error["message"]


def test_a_model_that_is_loaded_nowhere_is_refused_with_what_is_served(api: FlaskClient) -> None:
    body = {"model": "kontext", "prompt": "a"}

    assert "flux/srpo" in openai_error(api.post(GENERATIONS, json=body), 400)["message"]
    assert (
        "flux/srpo" in openai_error(api.post(EDITS, json=body | {"image_url": "https://a.example/a"}), 400)["message"]
    )


@pytest.mark.parametrize("path", [GENERATIONS, EDITS, "/v1/models", "/v1/models/srpo"])
def test_a_parameter_in_the_address_is_refused(full: FlaskClient, path: str) -> None:
    method = "GET" if "models" in path else "POST"

    assert openai_error(full.open(f"{path}?api-version=1", method=method, json={}), 400)["param"] == "api-version"


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/nothing", 404),
        ("POST", "/v1/", 404),
        ("GET", GENERATIONS, 405),
        ("POST", "/v1/models", 405),
        ("POST", "/v1/images/variations", 404),
    ],
)
def test_every_error_says_of_which_call_it_is(api: FlaskClient, method: str, path: str, status: int) -> None:
    response = api.open(path, method=method, json={} if method == "POST" else None)

    openai_error(response, status)
    body = response.get_json()
    assert (body["path"], body["requestId"]) == (path, response.headers["x-request-id"])
    assert set(AIMLAPI["error_fields"]) <= set(body)


def test_a_failed_call_is_named_after_its_job(patient: Callable[..., FlaskClient], farm: Farm) -> None:
    response = patient(0.05).post(GENERATIONS, json={"model": "flux/srpo", "prompt": "a"})

    assert jobs.record(farm.store, response.get_json()["requestId"]).endpoint == "flux/srpo"


def test_a_key_may_come_without_a_scheme(keyed: FlaskClient, ada: dict[str, str]) -> None:
    """Some of Siraya's examples send it so."""
    bare = {"Authorization": ada["Authorization"].removeprefix("Bearer ")}

    assert keyed.get("/v1/models", headers=bare).status_code == 200
    assert openai_error(keyed.get("/v1/models"), 401)["code"] == "invalid_api_key"


# Models


def test_the_models_are_those_that_workers_have(api: FlaskClient, full: FlaskClient) -> None:
    body = full.get("/v1/models").get_json()

    assert body["object"] == "list"
    assert {model["id"] for model in body["data"]} == {*MODELS, *EVERYTHING.split(",")}
    assert all(
        (model["object"], type(model["created"]), model["owned_by"]) == ("model", int, "srpo-farm")
        for model in body["data"]
    )


def test_a_model_that_no_worker_has_is_not_listed(api: FlaskClient) -> None:
    assert [model["id"] for model in api.get("/v1/models").get_json()["data"]] == list(MODELS)


def test_a_model_is_shown_by_its_id(api: FlaskClient) -> None:
    shown = api.get("/v1/models/flux/srpo/text-to-image")

    assert shown.get_json() in api.get("/v1/models").get_json()["data"]
    assert shown.get_json()["id"] == "flux/srpo/text-to-image"


@pytest.mark.parametrize("model", ["kontext", "dall-e-3", "fal-ai/flux/srpo"])
def test_a_model_that_is_not_there_is_404(api: FlaskClient, model: str) -> None:
    assert openai_error(api.get(f"/v1/models/{model}"), 404)["code"] == "model_not_found"
