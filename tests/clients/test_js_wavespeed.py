"""WaveSpeed's own JavaScript client renders here, with nothing changed but its base URL."""

from __future__ import annotations

import base64
import json
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests import javascript
from tests.docs_snippets import executed_by
from tests.farms import RunningFarm, image_facts, running_farm

#: The first one installs the clients.
pytestmark = pytest.mark.timeout(javascript.INSTALL_SECONDS + 60)

HEAD = """
import { Client } from "wavespeed";
const client = new Client("farm-key", { baseUrl: "http://farm" });
const model = "wavespeed-ai/flux-srpo";
const quick = { prompt: "a fox", size: "256*256", num_inference_steps: 1 };
const slow = { ...quick, num_inference_steps: 50 };
const pace = { pollInterval: 0.05 };
const failure = (error) => ({ message: error.message });
"""
HOLD_SECONDS = 1.5


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    settings = {"FARM_SIMULATED_STEP_MS": "60", "FARM_HOLD_SECONDS": str(HOLD_SECONDS)}
    with running_farm(tmp_path_factory.mktemp("js-wavespeed") / "data", **settings) as farm:
        yield farm


@pytest.fixture
def head(farm: RunningFarm) -> str:
    return HEAD.replace("http://farm", farm.url)


@pytest.mark.parametrize("options", ["pace", "{ ...pace, enableSyncMode: true }"])
def test_an_image_is_rendered(farm: RunningFarm, head: str, options: str) -> None:
    (url,) = javascript.run(head + f"report(await client.run(model, quick, {options}));").report["outputs"]

    assert image_facts(farm.fetch(url)) == ((256, 256), "JPEG")


def test_base64_is_the_image_itself(head: str) -> None:
    (inline,) = javascript.run(
        head + 'report(await client.run(model, { ...quick, output_format: "png", enable_base64_output: true }, pace));'
    ).report["outputs"]

    assert image_facts(base64.b64decode(inline, validate=True)) == ((256, 256), "PNG")


def test_a_call_that_times_out_raises_with_the_task(farm: RunningFarm, head: str) -> None:
    error = javascript.run(
        head + "report(await client.run(model, slow, { enableSyncMode: true }).catch(failure));"
    ).report

    assert error["message"].startswith("Sync mode timed out")
    (item,) = farm.call("POST", "/api/v3/predictions", {"page_size": 1}).json["data"]["items"]
    assert item["id"] in error["message"]
    farm.call("POST", f"/farm/v1/jobs/{item['id']}/cancel")


def test_a_time_limit_of_the_client_is_its_own_error(farm: RunningFarm, head: str) -> None:
    error = javascript.run(
        head + "report(await client.run(model, slow, { ...pace, timeout: 1.5 }).catch(failure));"
    ).report

    assert "timed out" in error["message"]
    (item,) = farm.call("POST", "/api/v3/predictions", {"page_size": 1}).json["data"]["items"]
    assert item["id"] in error["message"]
    farm.call("POST", f"/farm/v1/jobs/{item['id']}/cancel")


def test_a_refusal_names_the_field_and_an_unknown_model_what_there_is(head: str) -> None:
    ran = javascript.run(
        head
        + """
        report(await client.run(model, { ...quick, num_inference_steps: 51 }).catch(failure));
        report(await client.run("wavespeed-ai/no-such-model", quick).catch(failure));
        """
    )
    refused, unknown = ran.reports

    assert "400" in refused["message"]
    assert "num_inference_steps" in refused["message"]
    assert "404" in unknown["message"]


def test_a_failed_prediction_raises_with_its_task_and_why(farm: RunningFarm, head: str) -> None:
    error = javascript.run(
        head
        + """
        const post = (path, body) => fetch("http://farm" + path, { method: "POST", body: JSON.stringify(body ?? {}) });
        const failed = client.run(model, slow, pace).catch(failure);
        let items = [];
        while (!items.length) {
          items = (await (await post("/api/v3/predictions", { status: "processing" })).json()).data.items;
        }
        await post(`/farm/v1/jobs/${items[0].id}/cancel`);
        report({ ...(await failed), id: items[0].id });
        """.replace("http://farm", farm.url)
    ).report

    assert error["message"] == f"Prediction failed (task_id: {error['id']}): The job was cancelled."


@pytest.mark.full
def test_wavespeeds_own_command_line_renders_and_lists(farm: RunningFarm, tmp_path: Path) -> None:
    """It asks for every list with the parameters of its predictions, and knows models by the list of them only."""
    program = javascript.folder("@wavespeed/cli") / "dist" / "cli.js"

    def wavespeed(*arguments: str) -> str:
        return javascript.run_command(program, *arguments, home=tmp_path, WAVESPEED_API_KEY="farm-key")

    (snippet,) = executed_by("test_wavespeeds_own_command_line_renders_and_lists")
    for line in snippet.code.replace("http://127.0.0.1:8000", farm.url).splitlines():
        _, *arguments = shlex.split(line)
        printed = wavespeed(*arguments)

    assert f"{farm.url}/files/" in printed
    (last, *_) = json.loads(wavespeed("history", "--json"))["items"]
    assert image_facts(farm.fetch(last["outputs"][0])) == ((512, 512), "JPEG")
    assert (last["inputs"]["prompt"], last["inputs"]["size"]) == ("a red fox in fresh snow", "512*512")
    assert json.loads(wavespeed("history", "--status", "cancelled", "--json"))["items"] == []
    kinds = {model["model_id"]: model["type"] for model in json.loads(wavespeed("models", "--json"))}
    assert kinds["wavespeed-ai/flux-srpo"] == "text-to-image"
    assert kinds["wavespeed-ai/flux-srpo-image-to-image"] == "image-to-image"
    assert "num_inference_steps" in wavespeed("schema", "wavespeed-ai/flux-srpo")


def test_an_uploaded_file_is_rendered_from(farm: RunningFarm, head: str, tmp_path: Path) -> None:
    source = farm.image(farm.wait_for_end(farm.submit(output_format="png", num_inference_steps=1, seed=3)))
    (tmp_path / "fox.png").write_bytes(source)
    ran = javascript.run(
        head
        + f"""
        const url = await client.upload("{tmp_path / "fox.png"}");
        report(url);
        report(await client.run("wavespeed-ai/flux-srpo-image-to-image", {{ ...quick, image: url }}, pace));
        """
    )
    url, result = ran.reports

    assert farm.fetch(url) == source
    assert image_facts(farm.fetch(result["outputs"][0])) == ((256, 256), "JPEG")
