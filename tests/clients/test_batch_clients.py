"""Batches of other clients: OpenAI's JavaScript library, the AI SDK, and LiteLLM."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests import frameworks, javascript
from tests.farms import RunningFarm, image_facts, paused, running_farm

OPENAI = """
import OpenAI, { toFile } from "openai";
const client = new OpenAI({ baseURL: "http://farm/v1", apiKey: "farm-key" });
const body = (number) => ({ model: "srpo", prompt: `fox ${number}`, size: "256x256", num_inference_steps: 1,
  response_format: "url" });
const lines = (count) => [...Array(count).keys()].map((number) => JSON.stringify({ custom_id: `fox-${number}`,
  method: "POST", url: "/v1/images/generations", body: body(number) })).join("\\n");
const start = async (text) => {
  const file = await client.files.create({ file: await toFile(Buffer.from(text), "foxes.jsonl"), purpose: "batch" });
  return client.batches.create({ input_file_id: file.id, endpoint: "/v1/images/generations",
    completion_window: "24h" });
};
const pending = ["validating", "in_progress", "finalizing", "cancelling"];
const ended = async (id) => {
  let batch = await client.batches.retrieve(id);
  while (pending.includes(batch.status)) {
    await new Promise((resolve) => setTimeout(resolve, 50));
    batch = await client.batches.retrieve(id);
  }
  return batch;
};
"""
AI_SDK = """
import { createOpenAI } from "@ai-sdk/openai";
import { experimental_cancelBatch as cancelBatch, experimental_getBatchResults as getBatchResults,
  experimental_getBatchStatus as getBatchStatus, experimental_listBatches as listBatches,
  experimental_startBatch as startBatch } from "ai";
const provider = createOpenAI({ baseURL: "http://farm/v1", apiKey: "k" });
const named = (id) => ({ version: 2, id, provider: provider.experimental_batch().provider });
"""
LITELLM = """
import json, time
import litellm
farm = {"custom_llm_provider": "openai", "api_base": "http://farm/v1", "api_key": "k"}
body = {"model": "srpo", "prompt": "a fox", "size": "256x256", "num_inference_steps": 1, "response_format": "url"}
line = {"custom_id": "a", "method": "POST", "url": "/v1/images/generations", "body": body}
content = (json.dumps(line) + "\\n").encode()
file = litellm.create_file(file=("foxes.jsonl", content), purpose="batch", **farm)
batch = litellm.create_batch(completion_window="24h", endpoint="/v1/images/generations", input_file_id=file.id, **farm)
while batch.status not in ("completed", "failed", "expired", "cancelled"):
    time.sleep(0.1)
    batch = litellm.retrieve_batch(batch_id=batch.id, **farm)
answer = litellm.file_content(file_id=batch.output_file_id, **farm)
listed = litellm.list_batches(limit=1, **farm)
report([batch.status, json.loads(answer.text), [found.id for found in listed.data] == [batch.id]])
"""


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("batch-clients") / "data", FARM_SIMULATED_STEP_MS="1") as farm:
        yield farm


def test_openais_javascript_library_runs_a_batch(farm: RunningFarm) -> None:
    batch, results, listed = javascript.run(
        OPENAI.replace("http://farm", farm.url)
        + """
        const batch = await ended((await start(lines(3))).id);
        report(batch);
        const content = await (await client.files.content(batch.output_file_id)).text();
        report(content.trim().split("\\n").map((line) => JSON.parse(line)));
        const ids = [];
        for await (const found of client.batches.list({ limit: 1 })) ids.push(found.id);
        for await (const file of client.files.list({ limit: 1 })) await client.files.delete(file.id);
        report([ids, (await client.files.list()).data.length]);
        """
    ).reports

    assert (batch["status"], batch["request_counts"]) == ("completed", {"total": 3, "completed": 3, "failed": 0})
    assert [line["custom_id"] for line in results] == ["fox-0", "fox-1", "fox-2"]
    assert image_facts(farm.fetch(results[0]["response"]["body"]["data"][0]["url"]))[0] == (256, 256)
    ids, files_left = listed
    assert (ids[0], len(set(ids)), files_left) == (batch["id"], len(ids), 0)


def test_openais_javascript_library_cancels_a_batch_and_reads_its_problems(farm: RunningFarm) -> None:
    with paused(farm):
        cancelled, failed = javascript.run(
            OPENAI.replace("http://farm", farm.url)
            + """
            const batch = await start(lines(3));
            await client.batches.cancel(batch.id);
            report((await ended(batch.id)).status);
            report((await ended((await start("no json")).id)).errors.data);
            """
        ).reports

    assert cancelled == "cancelled"
    assert [(error["line"], error["code"]) for error in failed] == [(1, "invalid_json_line")]


def test_the_ai_sdk_follows_and_lists_batches(farm: RunningFarm) -> None:
    """It reads results as texts only, and refuses to start a batch of images before it sends anything."""
    status, listed, results, refused = javascript.run(
        (OPENAI + AI_SDK).replace("http://farm", farm.url)
        + """
        const bad = lines(1).replace("fox-0", "bad").replace("256x256", "0");
        const batch = await ended((await start(lines(2) + "\\n" + bad)).id);
        report(await getBatchStatus({ provider, batch: named(batch.id) }));
        report((await listBatches({ provider, limit: 1 })).batches.map((found) => found.id === batch.id));
        const results = [];
        for await (const result of getBatchResults({ provider, batch: named(batch.id) })) results.push(result);
        report(results.map((result) => [result.id, result.status]));
        const requests = [{ id: "a", type: "image", model: "srpo", prompt: "a fox" }];
        report(await startBatch({ provider, requests }).catch((error) => error.message));
        """
    ).reports

    assert (status["status"], status["requestCounts"]["completed"], status["requestCounts"]["failed"]) == (
        "completed",
        2,
        1,
    )
    assert listed == [True]
    assert results == [["fox-0", "failed"], ["fox-1", "failed"], ["bad", "failed"]]
    assert "image" in refused


def test_the_ai_sdk_cancels_a_batch(farm: RunningFarm) -> None:
    program = """
        const batch = await start(lines(2));
        await cancelBatch({ provider, batch: named(batch.id) });
        report((await ended(batch.id)).status);
        """
    with paused(farm):
        status = javascript.run((OPENAI + AI_SDK).replace("http://farm", farm.url) + program).report

    assert status == "cancelled"


@pytest.mark.full
def test_litellm_runs_a_batch(farm: RunningFarm) -> None:
    status, line, is_listed = frameworks.run(LITELLM.replace("http://farm", farm.url), seconds=300).report

    assert (status, line["custom_id"], is_listed) == ("completed", "a", True)
    assert image_facts(farm.fetch(line["response"]["body"]["data"][0]["url"]))[0] == (256, 256)
