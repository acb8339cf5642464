"""fal's own Python client renders here, redirected and otherwise as it is published."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client as fc
import pytest
from PIL import Image

from farm.domain.catalogue import KONTEXT_SIZES
from tests.docs_snippets import executed_by, names_of
from tests.farms import Certificate, RunningFarm, clean_environment, image_facts, running_farm, wait_for
from tests.images import sample_image
from tests.unit.dialects import golden
from tests.webhook_receiver import running_receiver

ENDPOINT = "fal-ai/flux/srpo"
IMAGE_TO_IMAGE = "fal-ai/flux/srpo/image-to-image"
KONTEXT = "fal-ai/flux-pro/kontext"
PAGES = golden.load("fal-flux-pro-kontext")["examples"]
SMALL: dict[str, Any] = {"prompt": "a fox", "image_size": {"width": 256, "height": 256}, "num_inference_steps": 2}
#: Long enough to be met while it runs.
LONG = SMALL | {"num_inference_steps": 50}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    data_dir = tmp_path_factory.mktemp("fal") / "data"
    settings = {"FARM_SIMULATED_STEP_MS": "30", "FARM_MAX_ATTEMPTS": "1", "FARM_WEBHOOK_ALLOW": "127.0.0.1"}
    with running_farm(data_dir, **settings) as farm:
        yield farm


@pytest.fixture(autouse=True)
def redirected(farm: RunningFarm, monkeypatch: pytest.MonkeyPatch) -> None:
    """Direct the client to a farm without TLS."""
    monkeypatch.setattr(fc, "RUN_URL_FORMAT", f"{farm.url}/fal/run/")
    monkeypatch.setattr(fc, "QUEUE_URL_FORMAT", f"{farm.url}/fal/queue/")


@pytest.fixture
def client() -> Iterator[fal_client.SyncClient]:
    client = fal_client.SyncClient(key="any")
    yield client
    client._client.close()


class Quiet(SimpleHTTPRequestHandler):
    """A server of the files of a folder that logs nothing."""

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.fixture
def host(tmp_path: Path) -> Iterator[str]:
    """Yield the URL of a host with two images of different ratios, named like those of fal's examples."""
    (tmp_path / "output.png").write_bytes(sample_image(320, 240))
    (tmp_path / "image.webp").write_bytes(sample_image(240, 320, form="WEBP"))
    (tmp_path / "page.html").write_text("<html>no image</html>")
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(tmp_path))) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()


def at(host: str, published: str) -> str:
    """Return this host's URL for what a published example names."""
    return f"{host}/{published.rpartition('_')[2]}"


def facts(farm: RunningFarm, output: dict[str, Any]) -> tuple[tuple[int, int], str | None]:
    """Return size and format of the first image of an output."""
    return image_facts(farm.fetch(output["images"][0]["url"]))


def wait_until_running(handle: fal_client.SyncRequestHandle) -> None:
    wait_for(lambda: isinstance(handle.status(), fal_client.InProgress), what="its start")


def finished(handle: fal_client.SyncRequestHandle) -> fal_client.Completed:
    """Return the request's status at its end."""
    status = wait_for(lambda: next((s for s in [handle.status()] if isinstance(s, fal_client.Completed)), None))
    assert status is not None
    return status


@contextmanager
def refused(status: int) -> Iterator[pytest.ExceptionInfo[fal_client.FalClientHTTPError]]:
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        yield caught
    assert caught.value.status_code == status


def test_subscribe_shows_the_logs_and_brings_the_image(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    """The loop of fal's quick start, which looks for no missing logs."""
    seen: list[str] = []

    def on_queue_update(update: fal_client.Status) -> None:
        if isinstance(update, fal_client.InProgress):
            for log in update.logs or ():
                seen.append(log["message"])

    output = client.subscribe(
        ENDPOINT, LONG | {"seed": 7}, with_logs=True, interval=0.05, on_queue_update=on_queue_update
    )

    assert facts(farm, output) == ((256, 256), "JPEG")
    assert (output["seed"], output["has_nsfw_concepts"], output["prompt"]) == (7, [False], "a fox")
    assert "Started, attempt 1." in seen
    assert any(message.startswith("Step ") and message.endswith(" of 50.") for message in seen)


def test_a_handle_leads_through_the_queue(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    blocker = client.submit(ENDPOINT, LONG | {"num_images": 4})
    wait_until_running(blocker)
    first, second = (client.submit(ENDPOINT, SMALL | {"num_images": 4}) for _ in range(2))

    assert (first.status(), second.status()) == (fal_client.Queued(position=0), fal_client.Queued(position=1))
    blocker.cancel()
    assert second.response_url == f"{farm.url}/fal/queue/fal-ai/flux/requests/{second.request_id}"
    output = second.get()
    status = second.status(with_logs=True)
    assert isinstance(status, fal_client.Completed)
    assert status.metrics["inference_time"] == output["timings"]["inference"] > 0
    assert status.logs is not None
    assert [log["message"].split()[0] for log in status.logs] == ["Accepted.", "Started,", "Completed,"]
    assert len(output["images"]) == 4
    assert client.result(ENDPOINT, second.request_id) == output


def test_run_is_answered_with_the_image(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    assert facts(farm, client.run(ENDPOINT, SMALL | {"output_format": "png"})) == ((256, 256), "PNG")


@pytest.mark.parametrize(("level", "full_steps"), [(None, 12), ("none", 12), ("regular", 6), ("high", 5)])
def test_a_level_of_acceleration_computes_part_of_the_steps(
    farm: RunningFarm, client: fal_client.SyncClient, level: str | None, full_steps: int
) -> None:
    wanted = SMALL | {"num_inference_steps": 12, "num_images": 2} | ({"acceleration": level} if level else {})

    handle = client.submit(ENDPOINT, wanted)

    assert len(handle.get()["images"]) == 2
    job = farm.call("GET", f"/farm/v1/jobs/{handle.request_id}").json
    assert job["timings"]["full_steps"] == 2 * full_steps


def test_sync_mode_brings_the_image_itself(client: fal_client.SyncClient) -> None:
    output = client.run(ENDPOINT, SMALL | {"sync_mode": True})

    assert output["images"][0]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_the_asynchronous_client(farm: RunningFarm) -> None:
    async def both() -> tuple[dict[str, Any], dict[str, Any]]:
        client = fal_client.AsyncClient(key="any")
        try:
            return await asyncio.gather(client.subscribe(ENDPOINT, SMALL, with_logs=True), client.run(ENDPOINT, SMALL))
        finally:
            await (await client._client).aclose()

    outputs = asyncio.run(both())

    assert [facts(farm, output) for output in outputs] == [((256, 256), "JPEG")] * 2


def test_image_to_image_brings_an_image_of_the_inputs_size(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    image = fal_client.encode_image(Image.new("RGB", (301, 257), "teal"))

    output = client.subscribe(IMAGE_TO_IMAGE, {"prompt": "a fox", "image_url": image, "num_inference_steps": 10})

    assert facts(farm, output) == ((301, 257), "JPEG")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page["name"]))
def test_the_example_of_each_of_kontexts_pages_is_rendered(
    farm: RunningFarm, client: fal_client.SyncClient, host: str, page: dict[str, Any]
) -> None:
    body = dict(page["input_example"])
    if "image_url" in body:
        body["image_url"] = at(host, body["image_url"])
    if "image_urls" in body:
        body["image_urls"] = [at(host, url) for url in body["image_urls"]]
    ratio = {"tiger eye": "1:1", "donut": "4:3", "duckling": "3:4"}[page["name"]]

    output = client.subscribe(page["endpoint"], body, with_logs=True)

    assert facts(farm, output) == (KONTEXT_SIZES[ratio], "JPEG")
    assert (output["prompt"], output["has_nsfw_concepts"]) == (body["prompt"], [False])


def test_kontext_edits_an_image_that_comes_along(client: fal_client.SyncClient) -> None:
    """The two images are the same where the seed is, and others where the input is another."""
    urls = [fal_client.encode_image(Image.new("RGB", (64, 64), colour)) for colour in ("teal", "teal", "red")]

    def edited(url: str) -> str:
        body = {"prompt": "a fox", "image_url": url, "aspect_ratio": "1:1", "seed": 7, "sync_mode": True}
        output = client.run(KONTEXT, body | {"output_format": "png", "safety_tolerance": 3})
        inlined: str = output["images"][0]["url"]
        assert inlined.startswith("data:image/png;base64,")
        return inlined

    first, again, other = map(edited, urls)
    assert first == again != other


def test_a_prompt_is_enhanced_when_that_is_asked_for(client: fal_client.SyncClient) -> None:
    output = client.subscribe(ENDPOINT, SMALL | {"enhance_prompt": True})

    assert output["prompt"] != "a fox"
    assert "a fox" in output["prompt"]


def test_an_unusable_image_is_reported_with_its_field(client: fal_client.SyncClient, host: str) -> None:
    """At a submit what comes along is refused; what is fetched later is the request's own error."""
    handle = client.submit(
        f"{KONTEXT}/multi", {"prompt": "a", "image_urls": [f"{host}/output.png", f"{host}/page.html"]}
    )
    status = finished(handle)
    with refused(422) as fetched:
        handle.get()
    with refused(422) as sent:
        client.submit(KONTEXT, {"prompt": "a fox", "image_url": "data:image/png;base64,AAAA"})

    for caught, location in [(fetched, ["body", "image_urls", "1"]), (sent, ["body", "image_url"])]:
        (detail,) = caught.value.response.json()["detail"]
        assert detail["loc"] == location
        assert detail["type"] in golden.load("fal-errors")["model"]
    assert status.error_type == fetched.value.error_type


def test_a_request_that_is_not_started_in_time_is_given_up(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    """Once: the client does not send it again."""
    blockers = [client.submit(ENDPOINT, LONG | {"num_images": 4}) for _ in range(4)]
    wait_until_running(blockers[0])
    before = farm.call("GET", "/farm/v1/jobs?limit=1").json["jobs"][0]["created_at"]

    waiting = client.submit(ENDPOINT, SMALL, start_timeout=1.1)
    with refused(504) as called:
        client.run(ENDPOINT, SMALL, start_timeout=1.1)
    with refused(504) as asked:
        waiting.get()

    for caught in (called, asked):
        assert caught.value.error_type == "startup_timeout"
        assert caught.value.response_headers["x-fal-request-timeout-type"] == "user"
    made = [job for job in farm.call("GET", "/farm/v1/jobs").json["jobs"] if job["created_at"] > before]
    assert [job["code"] for job in made] == ["start_timeout"] * 2
    for blocker in blockers:
        farm.call("PUT", f"/fal/queue/{ENDPOINT}/requests/{blocker.request_id}/cancel")


def test_the_stream_of_a_status_is_read_to_its_end(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    """Read it as the JavaScript client does, which takes the last event for the outcome."""
    handle = client.submit(ENDPOINT, LONG)

    answer = farm.call("GET", f"{handle.status_url.removeprefix(farm.url)}/stream?logs=1", Accept="text/event-stream")

    lines = answer.body.decode().splitlines()
    events = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert answer.headers["Content-Type"].startswith("text/event-stream")
    assert not [line for line in lines if line.startswith("event:")]
    assert [event["status"] for event in events][-1] == "COMPLETED"
    messages = [log["message"] for event in events for log in event["logs"]]
    assert len(set(messages)) == len(messages)
    assert any(message.endswith(" of 50.") for message in messages)
    assert client.result(ENDPOINT, handle.request_id)["images"]


def test_the_asynchronous_client_edits(farm: RunningFarm, host: str) -> None:
    async def edit() -> dict[str, Any]:
        client = fal_client.AsyncClient(key="any")
        try:
            body = {"prompt": "a fox", "image_url": f"{host}/output.png", "aspect_ratio": "21:9"}
            edited: dict[str, Any] = await client.subscribe(f"{KONTEXT}/max", body)
            return edited
        finally:
            await (await client._client).aclose()

    assert facts(farm, asyncio.run(edit())) == ((1568, 672), "JPEG")


def test_a_refusal_names_the_field(client: fal_client.SyncClient) -> None:
    for call in (client.submit, client.run):
        with refused(422) as caught:
            call(ENDPOINT, SMALL | {"num_inference_steps": 51})
        assert "num_inference_steps" in str(caught.value)
        assert "51" in str(caught.value)


@pytest.fixture
def broken_storage(farm: RunningFarm) -> Iterator[None]:
    """Make writes fail even for root, which may write into any folder but not below a file."""
    images, aside = farm.data_dir / "images", farm.data_dir / "aside"
    images.mkdir(exist_ok=True)
    images.rename(aside)
    images.write_text("in the way")
    yield
    images.unlink()
    aside.rename(images)


@pytest.mark.usefixtures("broken_storage")
def test_a_request_that_fails_brings_its_own_error(client: fal_client.SyncClient) -> None:
    handle = client.submit(ENDPOINT, SMALL)
    status = finished(handle)

    assert (status.error_type, bool(status.error)) == ("internal_error", True)
    with refused(500) as asked:
        client.result(ENDPOINT, handle.request_id)
    with refused(500) as called:
        client.run(ENDPOINT, SMALL)
    assert [caught.value.error_type for caught in (asked, called)] == ["internal_error"] * 2
    assert asked.value.message == status.error


def test_a_waiting_request_is_cancelled(client: fal_client.SyncClient) -> None:
    blocker, waiting = (client.submit(ENDPOINT, LONG | {"num_images": 4}) for _ in range(2))
    wait_until_running(blocker)

    waiting.cancel()

    assert finished(waiting).error_type == "client_cancelled"
    with refused(499) as caught:
        waiting.get()
    assert (caught.value.error_type, caught.value.message) == ("client_cancelled", "The job was cancelled.")
    blocker.cancel()


def test_a_running_request_is_cancelled(client: fal_client.SyncClient) -> None:
    handle = client.submit(ENDPOINT, LONG)
    wait_until_running(handle)

    client.cancel(ENDPOINT, handle.request_id)

    assert finished(handle).error_type == "client_cancelled"


def test_a_finished_request_is_not_cancelled(client: fal_client.SyncClient) -> None:
    handle = client.submit(ENDPOINT, SMALL)
    handle.get()

    with refused(400) as caught:
        handle.cancel()
    assert caught.value.response.json()["status"] == "ALREADY_COMPLETED"


def test_a_caller_that_loses_patience_cancels(client: fal_client.SyncClient) -> None:
    with pytest.raises(fal_client.FalClientTimeoutError) as caught:
        client.subscribe(ENDPOINT, LONG, client_timeout=1.1)

    assert caught.value.request_id is not None
    assert finished(client.get_handle(ENDPOINT, caught.value.request_id)).error_type == "client_cancelled"


@pytest.mark.parametrize(("asked", "result"), [(SMALL, "OK"), (LONG, "ERROR")], ids=["completed", "cancelled"])
def test_the_webhook_of_a_submit_is_genuine(
    farm: RunningFarm, client: fal_client.SyncClient, asked: dict[str, Any], result: str
) -> None:
    with running_receiver() as receiver:
        handle = client.submit(ENDPOINT, asked, webhook_url=f"{receiver.url}/hook?for=fal")
        if result == "ERROR":
            handle.cancel()
        wait_for(lambda: receiver.received)
    (came,) = receiver.received
    jwks = farm.call("GET", "/.well-known/jwks.json").json

    page = names_of("test_the_verifier_of_fals_dialect_knows_genuine_from_forged")
    assert page["is_from_fal"](jwks, came.headers, came.body)
    assert (came.path, came.json["request_id"], came.json["status"]) == ("/hook?for=fal", handle.request_id, result)
    assert ("images" in came.json["payload"]) == (result == "OK")


def test_an_unknown_request_is_not_found(client: fal_client.SyncClient) -> None:
    unknown = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"
    for ask in (client.status, client.result, client.cancel):
        with refused(404) as caught:
            ask(ENDPOINT, unknown)
        assert unknown in caught.value.message


# Over TLS nothing of the client is touched: the environment alone sends it here.

PROGRAM = f"""
import json
import fal_client

arguments = {SMALL!r}
statuses = []
watched = fal_client.subscribe("{ENDPOINT}", arguments, with_logs=True, on_queue_update=statuses.append)
called = fal_client.run("{ENDPOINT}", arguments)
print(json.dumps([watched["images"][0]["url"], called["images"][0]["url"], type(statuses[-1]).__name__]))
"""


def test_over_tls_the_environment_alone_redirects_it(tmp_path: Path, certificate: Certificate) -> None:
    (snippet,) = executed_by("test_over_tls_the_environment_alone_redirects_it")
    with running_farm(tmp_path / "data", 1, certificate, FARM_SIMULATED_STEP_MS="5") as farm:
        environment = {
            **dict(re.findall(r"(FAL_\w+)=(\S+)", snippet.code.replace("farm.example", f"localhost:{farm.port}"))),
            "SSL_CERT_FILE": str(certificate.authority),
        }
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env=clean_environment() | environment,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        *urls, last = json.loads(done.stdout)

        assert last == "Completed"
        assert all(url.startswith(f"{farm.url}/files/") for url in urls)
        assert image_facts(farm.call("GET", urls[0].removeprefix(farm.url)).body) == ((256, 256), "JPEG")
