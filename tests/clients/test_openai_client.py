"""OpenAI's own Python library against a running farm, with nothing changed but its base URL and key."""

from __future__ import annotations

import base64
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import openai
import pytest
import urllib3
from openai.types import ImagesResponse

from farm.process import child
from tests.farms import (
    RunningFarm,
    clean_environment,
    farm_command,
    free_port,
    image_facts,
    running_farm,
    wait_for,
)

#: How long a call is held by the API that has keys; a call that is answered soon, and one that is not by then.
HOLD_SECONDS = 0.4
QUICK: dict[str, Any] = {"extra_body": {"num_inference_steps": 1}}
SLOW: dict[str, Any] = {"n": 4, "extra_body": {"num_inference_steps": 50}}

MODELS = ["srpo", "flux/srpo", "flux-1-srpo-text-to-image"]


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(
        tmp_path_factory.mktemp("openai") / "data",
        FARM_SIMULATED_STEP_MS="20",
        FARM_MODEL_ALIASES="gpt-image-1=kontext",
    ) as farm:
        yield farm


@pytest.fixture(scope="module")
def strict(farm: RunningFarm) -> Iterator[str]:
    """Yield the base URL of a second API of that farm: with keys, short direct calls, and few waiting jobs."""
    settings = {
        "FARM_AUTH": "keys",
        "FARM_HOLD_SECONDS": str(HOLD_SECONDS),
        "FARM_QUEUE_LIMIT": "1",
        "FARM_PUBLIC_URL": farm.url,
    }
    port = free_port()
    program = child.command(sys.executable, "-m", "api", "--port", str(port), "--data-dir", str(farm.data_dir))
    with subprocess.Popen(program, env=clean_environment() | settings) as process:
        wait_for(lambda: answers(port), what="the second API")
        yield f"http://127.0.0.1:{port}/v1"
        process.terminate()


def answers(port: int) -> bool:
    with suppress(urllib3.exceptions.HTTPError):
        return urllib3.request("GET", f"http://127.0.0.1:{port}/healthz", retries=False).status == 200
    return False


@pytest.fixture(scope="module")
def ada(farm: RunningFarm, strict: str) -> Iterator[openai.OpenAI]:
    """Yield a client of the second API, with a key of its own."""
    created = farm_command("keys", "create", "ada", "--data-dir", str(farm.data_dir))
    with openai.OpenAI(base_url=strict, api_key=created.stdout.split()[-1]) as client:
        yield client


@pytest.fixture
def client(farm: RunningFarm, monkeypatch: pytest.MonkeyPatch) -> Iterator[openai.OpenAI]:
    """Yield the library as its users configure it: by environment variables alone."""
    monkeypatch.setenv("OPENAI_BASE_URL", f"{farm.url}/v1")
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    with openai.OpenAI() as client:
        yield client


@pytest.fixture
def images(farm: RunningFarm, tmp_path: Path) -> list[Path]:
    """Return two images as files."""
    paths = [tmp_path / f"{seed}.png" for seed in (1, 2)]
    for seed, path in enumerate(paths, 1):
        path.write_bytes(farm.image(farm.wait_for_end(farm.submit(seed=seed, output_format="png"))))
    return paths


def fetched(farm: RunningFarm, url: str | None) -> bytes:
    assert url is not None
    answer = farm.call("GET", url.removeprefix(farm.url))
    assert answer.status == 200
    return answer.body


def urls(answer: ImagesResponse) -> list[str | None]:
    assert answer.data
    return [image.url for image in answer.data]


def job_ids(farm: RunningFarm, prompt: str) -> list[str]:
    """Return the jobs of this prompt, newest first."""
    views = farm.call("GET", "/farm/v1/jobs?limit=100").json["jobs"]
    return [view["id"] for view in views if view["prompt"] == prompt]


def end(farm: RunningFarm, job_id: str) -> None:
    """Cancel a job and wait for its end, so that it does not affect other tests."""
    farm.call("POST", f"/farm/v1/jobs/{job_id}/cancel")
    farm.wait_for_end(job_id)


@pytest.mark.parametrize(
    ("model", "call", "size", "form"),
    [
        ("srpo", {"size": "512x256"}, (512, 256), "PNG"),
        ("srpo", {"size": "auto", "output_format": "jpeg", "quality": "standard"}, (1024, 1024), "JPEG"),
        ("kontext", {"extra_body": {"aspect_ratio": "3:2"}}, (1248, 832), "PNG"),
        ("flux/srpo", {"extra_body": {"image_size": {"width": 512, "height": 544}}}, (512, 544), "JPEG"),
        ("flux/srpo", {"size": "512x544"}, (512, 544), "JPEG"),
        ("flux-1-srpo-text-to-image", {"size": "square"}, (512, 512), "PNG"),
        ("flux-1-srpo-text-to-image", {"extra_body": {"output_format": "jpeg"}}, (1024, 768), "JPEG"),
    ],
)
def test_each_dialects_parameters_render(
    farm: RunningFarm, client: openai.OpenAI, model: str, call: dict[str, Any], size: tuple[int, int], form: str
) -> None:
    steps = {} if model == "kontext" else QUICK["extra_body"]

    answer = client.images.generate(
        model=model, prompt="a fox", **call | {"extra_body": steps | call.get("extra_body", {})}
    )

    (url,) = urls(answer)
    assert image_facts(fetched(farm, url)) == (size, form)


@pytest.mark.parametrize(("model", "default"), list(zip(MODELS, (12, 6, 6), strict=True)))
def test_a_level_of_acceleration_computes_part_of_the_steps(
    farm: RunningFarm, client: openai.OpenAI, model: str, default: int
) -> None:
    prompt = f"a fox in a hurry, by {model}"
    for level in ({}, {"acceleration": "none"}, {"acceleration": "regular"}, {"acceleration": "high"}):
        client.images.generate(
            model=model, prompt=prompt, size="512x512", extra_body={"num_inference_steps": 12} | level
        )

    views = [farm.call("GET", f"/farm/v1/jobs/{job_id}").json for job_id in reversed(job_ids(farm, prompt))]
    assert [view["timings"]["full_steps"] for view in views] == [default, 12, 6, 5]
    assert [view["warnings"] for view in views] == [[]] * 4


@pytest.mark.parametrize("model", MODELS)
def test_several_images_in_base64_are_those_at_the_urls(farm: RunningFarm, client: openai.OpenAI, model: str) -> None:
    call = {"num_inference_steps": 1, "seed": 7}
    inline, linked = (
        client.images.generate(
            model=model, prompt="a fox", n=2, size="512x512", response_format=way, extra_body=call
        ).data
        or []
        for way in ("b64_json", "url")
    )

    contents = [base64.b64decode(image.b64_json or "", validate=True) for image in inline]
    assert contents == [fetched(farm, image.url) for image in linked]
    assert len(set(contents)) == 2


@pytest.mark.parametrize(("model", "many"), [("srpo", False), ("kontext", False), ("kontext", True)])
def test_files_are_edited(farm: RunningFarm, client: openai.OpenAI, images: list[Path], model: str, many: bool) -> None:
    """Other files make another image; the same ones make the same."""
    chosen = [images, images[::-1], images] if many else [images[0], images[1], images[0]]
    more: dict[str, Any] = {"num_inference_steps": 10, "strength": 0.5} if model == "srpo" else {}

    first, other, again = (
        fetched(
            farm,
            *urls(client.images.edit(model=model, image=files, prompt="a fox", extra_body=more | {"seed": 7})),
        )
        for files in chosen
    )

    assert first == again
    assert first != other
    assert image_facts(first)[0] == ((256, 256) if model == "srpo" else (1024, 1024))


def test_an_edit_in_json_names_its_images(farm: RunningFarm, client: openai.OpenAI, images: list[Path]) -> None:
    uri = f"data:image/png;base64,{base64.b64encode(images[0].read_bytes()).decode()}"

    answer = client.post(
        "/images/edits",
        cast_to=ImagesResponse,
        body={"model": "kontext", "prompt": "a fox", "image_urls": [uri, uri], "size": "1248x832"},
    )

    (url,) = urls(answer)
    assert image_facts(fetched(farm, url)) == ((1248, 832), "PNG")


@pytest.mark.parametrize("model", MODELS)
def test_a_refusal_names_the_field(client: openai.OpenAI, model: str) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.generate(model=model, prompt="a fox", n=5)

    assert (caught.value.param, caught.value.type) == ("n", "invalid_request_error")
    assert caught.value.request_id
    assert "n: " in caught.value.message


def test_an_unknown_model_is_not_found(client: openai.OpenAI) -> None:
    with pytest.raises(openai.NotFoundError, match="flux/srpo") as caught:
        client.images.generate(model="dall-e-3", prompt="a fox")

    assert (caught.value.param, caught.value.code) == ("model", "model_not_found")


def test_streams_are_refused_before_anything_is_rendered(farm: RunningFarm, client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError, match="stream"):
        client.images.generate(model="srpo", prompt="a streamed fox", stream=True, partial_images=2)

    assert job_ids(farm, "a streamed fox") == []


def test_a_file_that_is_no_image_is_refused(client: openai.OpenAI) -> None:
    with pytest.raises(openai.BadRequestError) as caught:
        client.images.edit(model="kontext", image=b"no image", prompt="a fox")

    assert caught.value.param == "image"


def test_a_program_that_knows_openais_names_only_is_served(
    farm: RunningFarm, client: openai.OpenAI, images: list[Path]
) -> None:
    """It sends no `response_format`, and reads either form of an image; the URL stays as long as the job."""
    call: dict[str, Any] = {"model": "gpt-image-1", "prompt": "a fox", "size": "1024x1536", "quality": "high"}
    made = client.images.generate(**call, moderation="low", background="auto", output_compression=100)
    edited = client.images.edit(**call, image=images[0], output_format="jpeg", output_compression=50)

    for answer, form in ((made, "PNG"), (edited, "JPEG")):
        (image,) = answer.data or []
        assert image_facts(fetched(farm, image.url)) == ((1024, 1536), form)
        assert base64.b64decode(image.b64_json or "") == fetched(farm, image.url)
        assert "scaled and cropped to 1024x1536" in answer.model_dump()["warnings"][0]


def test_the_models_are_listed_and_shown(client: openai.OpenAI) -> None:
    listed = {model.id for model in client.models.list()}

    assert {*MODELS, "kontext", "gpt-image-1"} <= listed
    assert {client.models.retrieve(model_id).id for model_id in listed} == listed
    with pytest.raises(openai.NotFoundError):
        client.models.retrieve("dall-e-3")


def test_a_call_that_times_out_is_not_sent_again(farm: RunningFarm, ada: openai.OpenAI) -> None:
    """The library would, with its usual two retries: three jobs for one image."""
    with pytest.raises(openai.InternalServerError) as caught:
        ada.images.generate(model="srpo", prompt="a slow fox", **SLOW)

    (job_id,) = job_ids(farm, "a slow fox")
    assert (caught.value.status_code, caught.value.request_id) == (504, job_id)
    assert f"{farm.url}/farm/v1/jobs/{job_id}" in caught.value.message
    end(farm, job_id)


def test_a_full_queue_is_a_rate_limit_with_a_time_to_come_back(farm: RunningFarm, ada: openai.OpenAI) -> None:
    hasty, numbers = ada.with_options(max_retries=0), count()

    def refused() -> openai.RateLimitError | None:
        try:
            hasty.images.generate(model="srpo", prompt=f"fox {next(numbers)} of many", **SLOW)
        except openai.RateLimitError as error:
            return error
        except openai.InternalServerError:  # held in vain: its job is in the queue
            return None
        raise AssertionError("a slow call was answered at once")

    error = wait_for(refused, what="a full queue")

    assert error is not None
    assert (error.type, error.code) == ("rate_limit_error", "rate_limit_exceeded")
    assert 1 <= int(error.response.headers["Retry-After"]) <= 60
    for number in range(next(numbers)):
        for job_id in job_ids(farm, f"fox {number} of many"):
            end(farm, job_id)


@pytest.mark.full
def test_a_loop_on_one_prompt_under_a_rate_limit_gets_an_image_for_each_call(farm: RunningFarm, strict: str) -> None:
    """The library sends each refused call again, and counts: no call gets the image of another."""
    created = farm_command("keys", "create", "bob", "--data-dir", str(farm.data_dir))
    farm_command("keys", "limit", "bob", "--rate", "20", "--data-dir", str(farm.data_dir))
    seen: list[str | None] = []
    retries = 0
    with openai.OpenAI(base_url=strict, api_key=created.stdout.split()[-1], max_retries=20) as bob:
        for _ in range(23):
            with suppress(openai.InternalServerError):  # it was held in vain, so the next call goes on with its job
                answer = bob.images.with_raw_response.generate(model="srpo", prompt="one fox", size="256x256", **QUICK)
                retries += answer.retries_taken
                seen += urls(answer.parse())

    assert retries > 0
    assert len(set(seen)) == len(seen) > 10


def test_a_wrong_key_is_refused(ada: openai.OpenAI) -> None:
    assert [model.id for model in ada.models.list()]
    with pytest.raises(openai.AuthenticationError) as caught:
        ada.with_options(api_key="farm_wrong").models.list()

    assert (caught.value.status_code, caught.value.code) == (401, "invalid_api_key")


def test_a_job_that_fails_is_not_sent_again(farm: RunningFarm, client: openai.OpenAI) -> None:
    before_it = [farm.submit(num_images=4, num_inference_steps=50) for _ in range(3)]
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(lambda: client.images.generate(model="srpo", prompt="a cancelled fox", **SLOW))
        (job_id,) = wait_for(lambda: job_ids(farm, "a cancelled fox"))
        for each in (job_id, *before_it):
            end(farm, each)

        with pytest.raises(openai.APIStatusError, match="cancelled") as caught:
            call.result(30)

    assert (caught.value.status_code, caught.value.request_id) == (499, job_id)
    assert job_ids(farm, "a cancelled fox") == [job_id]


@pytest.mark.parametrize("edits", [False, True])
def test_a_client_that_gives_up_early_gets_the_same_job_when_it_asks_again(
    farm: RunningFarm, client: openai.OpenAI, images: list[Path], edits: bool
) -> None:
    """Its time limit is shorter than the render: it hangs up and sends the call again, by itself."""
    prompt = f"a late fox {edits}"
    hasty = client.with_options(timeout=0.7, max_retries=20)
    steps = {"num_inference_steps": 50}
    if edits:
        answer = hasty.images.edit(model="srpo", image=images[0], prompt=prompt, n=2, extra_body=steps)
    else:
        answer = hasty.images.generate(model="srpo", prompt=prompt, n=2, size="256x256", extra_body=steps)

    (job_id,) = job_ids(farm, prompt)
    assert urls(answer) == [image["url"] for image in farm.job(job_id)["images"]]
