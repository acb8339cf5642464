"""fal's own Python client renders here, redirected and otherwise as it is published."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import fal_client
import fal_client.client as fc
import pytest
import trustme

from tests.documents import names_in
from tests.farms import Certificate, RunningFarm, clean_environment, picture_facts, running_farm, wait_for
from tests.receiver import running_receiver

ENDPOINT = "fal-ai/flux/srpo"
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
    """The lines by which the client is sent to a farm without TLS."""
    monkeypatch.setattr(fc, "RUN_URL_FORMAT", f"{farm.url}/fal/run/")
    monkeypatch.setattr(fc, "QUEUE_URL_FORMAT", f"{farm.url}/fal/queue/")


@pytest.fixture
def client() -> Iterator[fal_client.SyncClient]:
    client = fal_client.SyncClient(key="any")
    yield client
    client._client.close()


def facts(farm: RunningFarm, output: dict[str, Any]) -> tuple[tuple[int, int], str | None]:
    """Size and format of the first picture of an output."""
    url = output["images"][0]["url"]
    assert url.startswith(f"{farm.url}/files/")
    return picture_facts(farm.call("GET", url.removeprefix(farm.url)).body)


def wait_until_running(handle: fal_client.SyncRequestHandle) -> None:
    wait_for(lambda: isinstance(handle.status(), fal_client.InProgress), what="its start")


def finished(handle: fal_client.SyncRequestHandle) -> fal_client.Completed:
    """The request's status at its end."""
    status = wait_for(lambda: next((s for s in [handle.status()] if isinstance(s, fal_client.Completed)), None))
    assert status is not None
    return status


@contextmanager
def refused(status: int) -> Iterator[pytest.ExceptionInfo[fal_client.FalClientHTTPError]]:
    with pytest.raises(fal_client.FalClientHTTPError) as caught:
        yield caught
    assert caught.value.status_code == status


def test_subscribe_shows_the_logs_and_brings_the_picture(farm: RunningFarm, client: fal_client.SyncClient) -> None:
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
    blocker = client.submit(ENDPOINT, LONG)
    wait_until_running(blocker)
    first, second = (client.submit(ENDPOINT, SMALL | {"num_images": 4}) for _ in range(2))

    assert (first.status(), second.status()) == (fal_client.Queued(position=0), fal_client.Queued(position=1))
    assert second.response_url == f"{farm.url}/fal/queue/fal-ai/flux/requests/{second.request_id}"
    output = second.get()
    status = second.status(with_logs=True)
    assert isinstance(status, fal_client.Completed)
    assert status.metrics["inference_time"] == output["timings"]["inference"] > 0
    assert status.logs is not None
    assert [log["message"].split()[0] for log in status.logs] == ["Accepted.", "Started,", "Completed,"]
    assert len(output["images"]) == 4
    assert client.result(ENDPOINT, second.request_id) == output


def test_run_is_answered_with_the_picture(farm: RunningFarm, client: fal_client.SyncClient) -> None:
    assert facts(farm, client.run(ENDPOINT, SMALL | {"output_format": "png"})) == ((256, 256), "PNG")


def test_sync_mode_brings_the_picture_itself(client: fal_client.SyncClient) -> None:
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


def test_a_refusal_names_the_field(client: fal_client.SyncClient) -> None:
    for call in (client.submit, client.run):
        with refused(422) as caught:
            call(ENDPOINT, SMALL | {"num_inference_steps": 51})
        assert "num_inference_steps" in str(caught.value)
        assert "51" in str(caught.value)


@pytest.fixture
def broken_storage(farm: RunningFarm) -> Iterator[None]:
    """Root may write into any folder, but not below a file."""
    pictures, aside = farm.data_dir / "pictures", farm.data_dir / "aside"
    pictures.mkdir(exist_ok=True)
    pictures.rename(aside)
    pictures.write_text("in the way")
    yield
    pictures.unlink()
    aside.rename(pictures)


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


@pytest.mark.parametrize(("asked", "told"), [(SMALL, "OK"), (LONG, "ERROR")], ids=["completed", "cancelled"])
def test_the_webhook_of_a_submit_is_genuine(
    farm: RunningFarm, client: fal_client.SyncClient, asked: dict[str, Any], told: str
) -> None:
    with running_receiver() as receiver:
        handle = client.submit(ENDPOINT, asked, webhook_url=f"{receiver.url}/hook?for=fal")
        if told == "ERROR":
            handle.cancel()
        wait_for(lambda: receiver.received)
    (came,) = receiver.received
    jwks = farm.call("GET", "/.well-known/jwks.json").json

    assert names_in("webhooks.md")["is_from_fal"](jwks, came.headers, came.body)
    assert (came.path, came.json["request_id"], came.json["status"]) == ("/hook?for=fal", handle.request_id, told)
    assert ("images" in came.json["payload"]) == (told == "OK")


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


@pytest.fixture
def certificate(tmp_path: Path) -> Certificate:
    authority = trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate = Certificate(tmp_path / "chain.pem", tmp_path / "key.pem", tmp_path / "authority.pem")
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate.chain, append=number > 0)
    issued.private_key_pem.write_to_path(certificate.key)
    authority.cert_pem.write_to_path(certificate.authority)
    return certificate


def test_over_tls_the_environment_alone_redirects_it(tmp_path: Path, certificate: Certificate) -> None:
    with running_farm(tmp_path / "data", 1, certificate, FARM_SIMULATED_STEP_MS="5") as farm:
        environment = {
            "FAL_KEY": "any",
            "FAL_RUN_HOST": f"localhost:{farm.port}/fal/run",
            "FAL_QUEUE_RUN_HOST": f"localhost:{farm.port}/fal/queue",
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
        assert picture_facts(farm.call("GET", urls[0].removeprefix(farm.url)).body) == ((256, 256), "JPEG")
