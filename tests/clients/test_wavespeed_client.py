"""WaveSpeed's own Python client against a running farm, with nothing changed but its base URL and key."""

from __future__ import annotations

import base64
import io
import re
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import wavespeed
from PIL import Image

from tests.farms import RunningFarm, free_port, image_facts, running_farm, wait_for
from tests.images import data_uri, sample_image
from tests.webhook_receiver import Received, running_receiver
from tests.webhook_verification import is_from_wavespeed

MODEL = "wavespeed-ai/flux-srpo"
IMAGE_MODEL = "wavespeed-ai/flux-srpo-image-to-image"
QUICK = {"prompt": "a fox", "size": "256*256", "num_inference_steps": 1}
#: Longer than a call is held.
SLOW = QUICK | {"num_inference_steps": 50}
HOLD_SECONDS = 1.5
#: An orange image of 96 by 64 pixels.
FOX = sample_image(96, 64, colour="orange")
#: At this strength it is the image itself, resized.
UNCHANGED = QUICK | {"strength": 0, "output_format": "png"}
TASK = re.compile(r"task_id: ([0-9a-f-]{36})")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    settings = {
        "FARM_SIMULATED_STEP_MS": "100",
        "FARM_HOLD_SECONDS": str(HOLD_SECONDS),
        "FARM_WEBHOOK_ALLOW": "127.0.0.1",
    }
    with running_farm(tmp_path_factory.mktemp("wavespeed") / "data", **settings) as farm:
        yield farm


@pytest.fixture(scope="module")
def client(farm: RunningFarm) -> Iterator[Any]:
    """Yield the client as its users configure it: base URL and key in its configuration."""
    settings = wavespeed.config.api
    before = settings.base_url, settings.api_key
    settings.base_url, settings.api_key = farm.url, "any"
    yield wavespeed.Client()
    settings.base_url, settings.api_key = before


def listed(farm: RunningFarm, **fields: object) -> list[dict[str, Any]]:
    items: list[dict[str, Any]] = farm.call("POST", "/api/v3/predictions", fields).json["data"]["items"]
    return items


def cancel(farm: RunningFarm, job_id: str) -> None:
    """Cancel a job and wait for its end, so that it does not affect other tests."""
    assert farm.call("POST", f"/farm/v1/jobs/{job_id}/cancel").status in (200, 202)
    assert farm.wait_for_end(job_id)["code"] == "cancelled"


def is_genuine(came: Received, secret: str) -> bool:
    """Verify a signature and its age as WaveSpeed's page says."""
    fresh = abs(time.time() - int(came.headers["webhook-timestamp"])) < 300
    return fresh and is_from_wavespeed(secret, came.headers, came.body)


@pytest.mark.parametrize("sync", [False, True])
def test_an_image_is_rendered(farm: RunningFarm, client: Any, sync: bool) -> None:
    result = client.run(MODEL, QUICK, poll_interval=0.05, enable_sync_mode=sync)

    (url,) = result["outputs"]
    assert image_facts(farm.fetch(url)) == ((256, 256), "JPEG")


@pytest.mark.parametrize("sync", [False, True])
def test_base64_is_the_image_itself(farm: RunningFarm, client: Any, sync: bool) -> None:
    """The same request without it has the same image at a URL."""
    (inline,), (url,) = (
        client.run(
            MODEL,
            QUICK | {"seed": 7, "output_format": "png", "enable_base64_output": wanted},
            poll_interval=0.05,
            enable_sync_mode=sync,
        )["outputs"]
        for wanted in (True, False)
    )

    assert image_facts(base64.b64decode(inline, validate=True)) == ((256, 256), "PNG")
    assert base64.b64decode(inline) == farm.fetch(url)


def colour(image: bytes) -> Any:
    """Return the colour of the image's middle."""
    with Image.open(io.BytesIO(image)) as opened:
        return opened.convert("RGB").getpixel((opened.width // 2, opened.height // 2))


@pytest.mark.parametrize("sync", [False, True])
@pytest.mark.parametrize("model", [MODEL, IMAGE_MODEL])
def test_an_image_is_transformed(farm: RunningFarm, client: Any, model: str, sync: bool) -> None:
    body = UNCHANGED | {"image": data_uri(FOX)}

    (url,) = client.run(model, body, poll_interval=0.05, enable_sync_mode=sync)["outputs"]

    image = farm.fetch(url)
    assert (image_facts(image), colour(image)) == (((256, 256), "PNG"), (255, 165, 0))


def test_an_uploaded_image_is_transformed(farm: RunningFarm, client: Any, tmp_path: Path) -> None:
    file = tmp_path / "fox.png"
    file.write_bytes(FOX)

    named = client.upload(str(file))
    (first,) = client.run(IMAGE_MODEL, UNCHANGED | {"image": named}, poll_interval=0.05)["outputs"]
    (second,) = client.run(IMAGE_MODEL, UNCHANGED | {"image": first}, poll_interval=0.05)["outputs"]

    assert farm.fetch(named) == FOX
    assert [colour(farm.fetch(url)) for url in (first, second)] == [(255, 165, 0)] * 2


def test_the_strength_has_its_effect(farm: RunningFarm, client: Any) -> None:
    images = set()
    for strength in (0, 0.5, 1):
        body = QUICK | {"image": data_uri(FOX), "num_inference_steps": 4, "seed": 7, "strength": strength}
        (url,) = client.run(IMAGE_MODEL, body, poll_interval=0.05)["outputs"]
        images.add(farm.fetch(url))

    assert len(images) == 3


def test_an_image_that_cannot_be_fetched_fails_with_its_number(farm: RunningFarm, client: Any) -> None:
    body = UNCHANGED | {"image": f"http://127.0.0.1:{free_port()}/fox.png"}

    with pytest.raises(RuntimeError, match=r"^Prediction failed \(task_id: .*image") as caught:
        client.run(IMAGE_MODEL, body, poll_interval=0.05)

    found = TASK.search(str(caught.value))
    assert found is not None
    assert client.get_result(found[1])["data"]["code"] == 1402


@pytest.mark.parametrize(
    ("image", "number"), [({}, 1400), ({"image": ""}, 1401), ({"image": data_uri(b"no image")}, 1401)]
)
def test_an_unusable_image_is_refused_by_the_name_of_its_field(client: Any, image: dict[str, str], number: int) -> None:
    with pytest.raises(RuntimeError, match=rf'HTTP 400.*"code":{number}.*"image: '):
        client.run(IMAGE_MODEL, QUICK | image)


def test_a_prediction_that_its_client_does_not_wait_for_goes_on(farm: RunningFarm, client: Any) -> None:
    with pytest.raises(TimeoutError, match="Prediction timed out") as caught:
        client.run(MODEL, SLOW, timeout=0.3, poll_interval=0.05)

    found = TASK.search(str(caught.value))
    assert found is not None
    assert client.get_result(found[1])["data"]["status"] in ("created", "processing")
    cancel(farm, found[1])


def test_a_prompt_is_enhanced(client: Any) -> None:
    result = client.run_no_throw(MODEL, QUICK | {"enhance_prompt": True, "seed": 7}, poll_interval=0.05)

    assert result["status"] == "completed"
    assert client.get_result(result["task_id"])["data"]["prompt"] != QUICK["prompt"]


def test_a_deleted_prediction_is_gone(farm: RunningFarm, client: Any) -> None:
    (url,) = client.run(MODEL, QUICK, poll_interval=0.05)["outputs"]
    job_id = listed(farm)[0]["id"]

    answer = farm.call("POST", "/api/v3/predictions/delete", {"ids": [job_id]})

    assert (answer.status, answer.json["data"]) == (200, {"deleted_count": 1})
    with pytest.raises(RuntimeError, match="HTTP 404"):
        client.get_result(job_id)
    assert farm.call("GET", url.removeprefix(farm.url)).status == 404


def test_a_webhook_names_the_image_and_holds_none(farm: RunningFarm, client: Any) -> None:
    with running_receiver() as receiver:
        body = UNCHANGED | {"image": data_uri(FOX), "strength": 0.5}
        client.run(f"{IMAGE_MODEL}?webhook={receiver.url}/hook", body, poll_interval=0.05)
        (came,) = wait_for(lambda: receiver.received)

    given = came.json["input"]
    assert given.items() >= (body | {"image": given["image"]}).items()
    assert image_facts(farm.fetch(given["image"])) == ((96, 64), "PNG")


def test_a_call_that_times_out_raises_with_the_task(farm: RunningFarm, client: Any) -> None:
    with pytest.raises(RuntimeError, match=r"^Sync mode timed out") as caught:
        client.run(MODEL, SLOW, enable_sync_mode=True)

    found = TASK.search(str(caught.value))
    assert found is not None
    assert client.get_result(found[1])["data"]["status"] == "processing"
    assert f"{farm.url}/api/v3/predictions/{found[1]}/result" in str(caught.value)
    cancel(farm, found[1])


def test_a_call_that_times_out_is_still_processing(farm: RunningFarm, client: Any) -> None:
    result = client.run_no_throw(MODEL, SLOW, enable_sync_mode=True)

    assert (result["status"], result["outputs"]) == ("processing", None)
    assert client.get_result(result["task_id"])["data"]["status"] == "processing"
    cancel(farm, result["task_id"])


@pytest.mark.parametrize("sync", [False, True])
def test_a_failed_prediction_raises_with_its_task_and_why(farm: RunningFarm, client: Any, sync: bool) -> None:
    with ThreadPoolExecutor(1) as pool:
        call = pool.submit(client.run, MODEL, SLOW, poll_interval=0.05, enable_sync_mode=sync)
        (item,) = wait_for(lambda: listed(farm, status="processing"))
        cancel(farm, item["id"])

        with pytest.raises(RuntimeError, match=rf"^Prediction failed \(task_id: {item['id']}\): The job was cancelled"):
            call.result(30)


def test_a_refusal_names_the_field(client: Any) -> None:
    with pytest.raises(RuntimeError, match=r"HTTP 400.*num_inference_steps"):
        client.run(MODEL, QUICK | {"num_inference_steps": 51})


def test_an_unknown_model_is_404_with_what_there_is(client: Any) -> None:
    with pytest.raises(RuntimeError, match=f"HTTP 404.*{MODEL}"):
        client.run("wavespeed-ai/no-such-model", QUICK)


def test_an_unknown_task_is_404_at_once(client: Any) -> None:
    with pytest.raises(RuntimeError, match="HTTP 404"):
        client.get_result("0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11")


def test_a_webhook_appended_to_the_model_is_called(farm: RunningFarm, client: Any) -> None:
    """Unencoded and with a query of its own, for the client has no argument for it."""
    secret = farm.call("GET", "/api/v3/webhook/secret").json["data"]["secret"]
    with running_receiver() as receiver:
        outputs = client.run(f"{MODEL}?webhook={receiver.url}/hook?user=1&x=2", QUICK, poll_interval=0.05)["outputs"]
        (came,) = wait_for(lambda: receiver.received)

    assert came.path == "/hook?user=1&x=2"
    assert is_genuine(came, secret)
    assert (came.json["status"], came.json["outputs"]) == ("completed", outputs)
    assert came.json["input"].items() >= QUICK.items()
    assert came.json == client.get_result(came.json["id"])["data"] | {"input": came.json["input"]}


def test_a_result_is_answered_at_once_whatever_its_state(farm: RunningFarm) -> None:
    """Some clients give up after ten seconds; a result is never held."""
    data = farm.call("POST", f"/api/v3/{MODEL}", SLOW | {"size": "1536*1536"}).json["data"]
    path = data["urls"]["get"].removeprefix(farm.url)
    farm.wait_for_state(data["id"], "processing")

    began = time.monotonic()
    running = farm.call("GET", path).json["data"]
    took = time.monotonic() - began
    cancel(farm, data["id"])

    assert (running["status"], took < 5) == ("processing", True)
    assert farm.call("GET", path).json["data"]["status"] == "failed"


def test_an_answer_has_the_types_that_other_clients_read(farm: RunningFarm) -> None:
    """Numbers where they check for numbers, strings where they check for strings, and nothing null."""
    answer = farm.call("POST", f"/api/v3/{MODEL}", QUICK | {"enable_sync_mode": True})

    data = answer.json["data"]
    assert (answer.status, answer.json["code"], answer.json["message"]) == (200, 200, "success")
    assert (answer.headers["Content-Type"], data["status"]) == ("application/json", "completed")
    assert [type(data[name]) for name in ("id", "status", "error", "code", "outputs")] == [str, str, str, int, list]
    assert [type(output) for output in data["outputs"]] == [str]
    assert all(type(value) is int and value > 0 for value in [*data["timings"].values(), data["executionTime"]])
    assert None not in data.values()
