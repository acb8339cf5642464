"""fal's JavaScript clients render here, redirected and otherwise as they are published."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests import javascript
from tests.farms import RunningFarm, image_facts, paused, running_farm, wait_for

#: The first one installs the clients.
pytestmark = pytest.mark.timeout(javascript.INSTALL_SECONDS + 60)

ENDPOINT = "fal-ai/flux/srpo"

#: The two ways by which the client comes to a farm without TLS, each as its page shows it.
WAYS = {
    "middleware": """
        const to = "http://farm/fal";
        fal.config({ credentials: "farm-key", requestMiddleware: async (r) => ({ ...r, url: r.url
          .replace("https://queue.fal.run", to + "/queue").replace("https://fal.run", to + "/run")
          .replace(/https:\\/\\/rest\\.(alpha\\.)?fal\\.ai/, to + "/rest") }) });
    """,
    "proxy": """
        fal.config({ credentials: "farm-key", proxyUrl: { url: "http://farm/fal/proxy", when: "always" } });
    """,
}
HEAD = """
import { fal } from "@fal-ai/client";
const endpoint = "fal-ai/flux/srpo";
const small = { prompt: "a fox", image_size: { width: 256, height: 256 }, num_inference_steps: 2 };
const long = { ...small, num_inference_steps: 50 };
const failure = (error) => ({ name: error.name, status: error.status, message: error.message, body: error.body });
"""
OLD = """
import * as fal from "@fal-ai/serverless-client";
const small = { prompt: "a fox", image_size: { width: 256, height: 256 }, num_inference_steps: 2 };
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    settings = {"FARM_SIMULATED_STEP_MS": "20", "FARM_MAX_ATTEMPTS": "1"}
    with running_farm(tmp_path_factory.mktemp("js-fal") / "data", **settings) as farm:
        yield farm


@pytest.fixture(params=WAYS)
def way(request: pytest.FixtureRequest, farm: RunningFarm) -> str:
    """Return the head of a program whose `fal` client calls the farm."""
    return HEAD + WAYS[request.param].replace("http://farm", farm.url)


@pytest.fixture
def redirected(farm: RunningFarm) -> str:
    """Return the same, by the middleware alone."""
    return HEAD + WAYS["middleware"].replace("http://farm", farm.url)


def facts(farm: RunningFarm, output: dict[str, Any]) -> tuple[tuple[int, int], str | None]:
    """Return size and format of the first image of an output."""
    return image_facts(farm.fetch(output["images"][0]["url"]))


def test_subscribe_shows_the_logs_and_brings_the_image(farm: RunningFarm, way: str) -> None:
    """The loop of fal's quick start, which looks for no missing logs."""
    ran = javascript.run(
        way
        + """
        const seen = [];
        const result = await fal.subscribe(endpoint, { input: { ...long, seed: 7 }, logs: true, pollInterval: 50,
          onQueueUpdate: (update) => {
            if (update.status === "IN_PROGRESS") update.logs.map((log) => log.message).forEach((m) => seen.push(m));
          } });
        report({ ...result, seen });
        """
    ).report

    assert facts(farm, ran["data"]) == ((256, 256), "JPEG")
    assert (ran["data"]["seed"], ran["data"]["prompt"]) == (7, "a fox")
    assert farm.job(ran["requestId"])["status"] == "completed"
    assert "Started, attempt 1." in ran["seen"]
    assert any(message.startswith("Step ") for message in ran["seen"])


def test_subscribe_by_streaming_tells_each_line_once(farm: RunningFarm, way: str) -> None:
    ran = javascript.run(
        way
        + """
        const seen = [];
        const result = await fal.subscribe(endpoint, { input: long, logs: true, mode: "streaming",
          onQueueUpdate: (update) => seen.push([update.status, (update.logs ?? []).map((log) => log.message)]) });
        report({ ...result, seen });
        """
    ).report

    statuses = [status for status, _ in ran["seen"]]
    result = ran["seen"][-1][1]
    assert facts(farm, ran["data"]) == ((256, 256), "JPEG")
    assert (statuses[-1], "IN_PROGRESS" in statuses) == ("COMPLETED", True)
    # The client keeps what it was sent: what came twice would stand there twice.
    assert len(result) == len(set(result)) > 2


def test_run_is_answered_with_the_image(farm: RunningFarm, way: str) -> None:
    ran = javascript.run(way + 'report(await fal.run(endpoint, { input: { ...small, output_format: "png" } }));').report

    assert facts(farm, ran["data"]) == ((256, 256), "PNG")
    assert farm.job(ran["requestId"])["status"] == "completed"


def test_the_queue_step_by_step(farm: RunningFarm, way: str) -> None:
    program = """
        for (const _ of [1, 2, 3]) await fal.queue.submit(endpoint, { input: { ...small, num_images: 4 } });
        const waiting = await fal.queue.submit(endpoint, { input: small, priority: "low" });
        report(waiting);
        report(await fal.queue.status(endpoint, { requestId: waiting.request_id, logs: true }));
        await fetch("http://farm/farm/v1/resume", { method: "POST" });
        await fal.queue.subscribeToStatus(endpoint, { requestId: waiting.request_id, pollInterval: 50 });
        report(await fal.queue.result(endpoint, { requestId: waiting.request_id }));
        """
    with paused(farm):
        ran = javascript.run(way + program.replace("http://farm", farm.url))
    submitted, status, result = ran.reports

    assert submitted["status"] == status["status"] == "IN_QUEUE"
    assert submitted["queue_position"] == status["queue_position"] == 3
    assert [log["message"] for log in status["logs"]] == ["Accepted."]
    assert facts(farm, result["data"]) == ((256, 256), "JPEG")
    assert farm.job(submitted["request_id"])["priority"] == "low"


def test_a_running_request_is_cancelled_and_fails(farm: RunningFarm, way: str) -> None:
    ran = javascript.run(
        way
        + """
        const { request_id: requestId } = await fal.queue.submit(endpoint, { input: long });
        await fal.queue.cancel(endpoint, { requestId });
        const status = await fal.queue.subscribeToStatus(endpoint, { requestId, pollInterval: 50 });
        const result = await fal.queue.result(endpoint, { requestId }).catch(failure);
        const again = await fal.queue.cancel(endpoint, { requestId }).catch(failure);
        report({ requestId, status, result, again });
        """
    ).report

    assert (ran["status"]["status"], ran["status"]["error_type"]) == ("COMPLETED", "client_cancelled")
    assert (ran["result"]["status"], ran["result"]["message"]) == (499, "The job was cancelled.")
    assert (ran["again"]["status"], ran["again"]["body"]["status"]) == (400, "ALREADY_COMPLETED")
    assert farm.job(ran["requestId"])["code"] == "cancelled"


def test_an_invalid_input_is_a_validation_error_that_names_the_field(way: str) -> None:
    ran = javascript.run(
        way
        + """
        const error = await fal.subscribe(endpoint, { input: { ...small, num_images: 5 } }).catch((error) => error);
        report({ ...failure(error), fields: error.fieldErrors, ours: error.getFieldErrors("num_images") });
        """
    ).report

    assert (ran["name"], ran["status"]) == ("ValidationError", 422)
    assert ran["fields"] == ran["ours"] != []
    assert ran["fields"][0]["loc"] == ["body", "num_images"]
    assert "num_images" in ran["message"]


def test_an_unknown_model_is_404_with_what_there_is(way: str) -> None:
    error = javascript.run(way + 'report(await fal.run("fal-ai/no-such", { input: small }).catch(failure));').report

    assert error["status"] == 404
    assert ENDPOINT in error["message"]


def test_a_time_limit_of_the_client_cancels_the_request(farm: RunningFarm, way: str) -> None:
    ran = javascript.run(
        way
        + """
        let requestId;
        const error = await fal.subscribe(endpoint, { input: { ...long, num_images: 4 }, timeout: 300,
          pollInterval: 50, onEnqueue: (id) => { requestId = id; } }).catch(failure);
        report({ error, requestId });
        """
    ).report

    assert farm.wait_for_end(ran["requestId"])["code"] == "cancelled"


def test_a_start_timeout_is_reported_and_not_retried(farm: RunningFarm, way: str) -> None:
    """Behind longer jobs, a direct call whose start may not be late: 504, and the client leaves it at that."""
    blockers = [farm.submit(num_inference_steps=50, num_images=4) for _ in range(6)]
    before = len(farm.call("GET", "/farm/v1/jobs?limit=100").json["jobs"])

    error = javascript.run(
        way + "report(await fal.run(endpoint, { input: small, startTimeout: 1.5 }).catch(failure));"
    ).report

    assert error["status"] == 504
    assert len(farm.call("GET", "/farm/v1/jobs?limit=100").json["jobs"]) == before + 1
    for blocker in blockers:
        farm.call("POST", f"/farm/v1/jobs/{blocker}/cancel")
        farm.wait_for_end(blocker)


def test_a_blob_in_the_input_is_uploaded_first(farm: RunningFarm, way: str) -> None:
    """The client sends it to storage by itself, and names the file that it became."""
    source = farm.image(farm.wait_for_end(farm.submit(output_format="png", seed=3)))
    ran = javascript.run(
        way
        + f"""
        const blob = new Blob([Buffer.from("{source.hex()}", "hex")], {{ type: "image/png" }});
        const url = await fal.storage.upload(blob);
        report(url);
        report(await fal.subscribe("fal-ai/flux/srpo/image-to-image",
          {{ input: {{ prompt: "a fox", image_url: blob, num_inference_steps: 10 }}, pollInterval: 50 }}));
        """
    )
    url, result = ran.reports

    assert farm.call("GET", url.removeprefix(farm.url)).body == source
    assert facts(farm, result["data"]) == ((256, 256), "JPEG")


def test_a_full_url_as_the_endpoint_is_taken(farm: RunningFarm, redirected: str) -> None:
    """The client posts to it with a slash behind."""
    ran = javascript.run(
        redirected + 'report(await fal.run("https://fal.run/fal-ai/flux/srpo", { input: small }));'
    ).report

    assert facts(farm, ran["data"]) == ((256, 256), "JPEG")


def test_sync_mode_brings_the_image_itself(redirected: str) -> None:
    ran = javascript.run(redirected + "report(await fal.run(endpoint, { input: { ...small, sync_mode: true } }));")

    assert ran.report["data"]["images"][0]["url"].startswith("data:image/jpeg;base64,/9j/")


def test_the_deprecated_client_renders_too(farm: RunningFarm) -> None:
    setting = WAYS["middleware"].replace("http://farm", farm.url)
    ran = javascript.run(
        OLD
        + setting
        + """
        const seen = [];
        report(await fal.subscribe("fal-ai/flux/srpo", { input: small, logs: true, pollInterval: 50,
          onQueueUpdate: (update) => seen.push(update.status) }));
        report(seen);
        """
    )
    output, seen = ran.reports

    assert facts(farm, output) == ((256, 256), "JPEG")
    assert seen[-1] == "COMPLETED"


def test_many_wait_at_once(farm: RunningFarm, redirected: str) -> None:
    ran = javascript.run(
        redirected
        + """
        const calls = Array.from({ length: 8 }, (_, seed) =>
          fal.subscribe(endpoint, { input: { ...small, seed: seed + 1 }, pollInterval: 50 }));
        report((await Promise.all(calls)).map((result) => result.data.seed));
        """
    ).report

    assert ran == list(range(1, 9))
    wait_for(lambda: farm.call("GET", "/farm/v1/queue").json["processing"] == 0)


@pytest.mark.full
def test_a_large_blob_is_uploaded_in_parts(farm: RunningFarm, redirected: str) -> None:
    """The client does so from 90 MiB on, which no model would accept as an image."""
    ran = javascript.run(
        redirected
        + """
        const parts = Array.from({ length: 91 }, (_, number) => new Uint8Array(1024 * 1024).fill(number));
        report(await fal.storage.upload(new Blob(parts, { type: "application/zip" })));
        """,
        seconds=110,
    ).report

    path = ran.removeprefix(farm.url)
    assert farm.call("HEAD", path).headers["Content-Length"] == str(91 * 1024 * 1024)
    assert farm.call("GET", path, Range=f"bytes={90 * 1024 * 1024 - 1}-{90 * 1024 * 1024}").body == bytes([89, 90])
