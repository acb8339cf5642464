"""OpenAI's own Python library runs batches on a farm, with nothing changed but its base URL and key."""

from __future__ import annotations

import json
import os
import re
import signal
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import openai
import pytest
from openai.types import Batch

from farm.jobstore import redis_keys
from tests.docs_snippets import executed_by
from tests.farms import RunningFarm, image_facts, pids, running_farm, wait_for
from tests.faulty_background import POINTS
from tests.webhook_receiver import running_receiver

ENDS = ("completed", "failed", "expired", "cancelled")


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    data_dir = tmp_path_factory.mktemp("batches") / "data"
    settings = {"FARM_SIMULATED_STEP_MS": "0", "FARM_LEASE_SECONDS": "3", "FARM_WEBHOOK_ALLOW": "127.0.0.1/32"}
    with running_farm(data_dir, 2, **settings) as farm:
        yield farm


@pytest.fixture
def client(farm: RunningFarm) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{farm.url}/v1", api_key="any") as client:
        yield client


def requests(count: int, **fields: Any) -> bytes:
    """Return a file with so many requests for small images."""
    body = {"model": "srpo", "size": "256x256", "num_inference_steps": 1, "response_format": "url"} | fields
    lines = (
        {
            "custom_id": f"fox-{number}",
            "method": "POST",
            "url": "/v1/images/generations",
            "body": body | {"prompt": f"fox {number}", "seed": number},
        }
        for number in range(count)
    )
    return b"".join(json.dumps(line).encode() + b"\n" for line in lines)


def create(client: openai.OpenAI, content: bytes) -> Batch:
    file = client.files.create(file=("foxes.jsonl", content), purpose="batch")
    return client.batches.create(
        input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h", metadata={"run": "a"}
    )


def end_of(client: openai.OpenAI, batch: Batch, *, seconds: float = 60) -> Batch:
    def ended() -> Batch | None:
        found = client.batches.retrieve(batch.id)
        return found if found.status in ENDS else None

    found = wait_for(ended, seconds=seconds, what="the end of the batch")
    assert found is not None
    return found


def results(client: openai.OpenAI, file_id: str | None) -> list[dict[str, Any]]:
    assert file_id
    return [json.loads(line) for line in client.files.content(file_id).text.splitlines()]


def test_a_batch_is_created_followed_and_read(farm: RunningFarm, client: openai.OpenAI) -> None:
    batch = end_of(client, create(client, requests(3) + requests(1, n=99).replace(b"fox-0", b"bad")))

    assert (batch.object, batch.endpoint, batch.model) == ("batch", "/v1/images/generations", "srpo")
    assert batch.status == "completed"
    assert batch.metadata == {"run": "a"}
    assert batch.request_counts
    assert batch.request_counts.model_dump() == {"total": 4, "completed": 3, "failed": 1}
    lines = results(client, batch.output_file_id)
    assert [line["custom_id"] for line in lines] == ["fox-0", "fox-1", "fox-2"]
    assert [image_facts(farm.fetch(line["response"]["body"]["data"][0]["url"]))[0] for line in lines] == [
        (256, 256)
    ] * 3
    (bad,) = results(client, batch.error_file_id)
    assert (bad["custom_id"], bad["response"]["status_code"]) == ("bad", 400)
    assert batch in list(client.batches.list(limit=1))


def test_files_are_uploaded_listed_read_and_deleted(client: openai.OpenAI, tmp_path: Path) -> None:
    path = tmp_path / "foxes.jsonl"
    path.write_bytes(requests(2))
    keep: Any = {"anchor": "created_at", "seconds": 7200}
    file = client.files.create(file=path, purpose="batch", expires_after=keep)

    assert (file.filename, file.bytes, file.purpose, file.status) == (
        path.name,
        path.stat().st_size,
        "batch",
        "processed",
    )
    assert file.expires_at == file.created_at + 7200
    assert client.files.retrieve(file.id) == file
    assert client.files.wait_for_processing(file.id) == file
    assert client.files.content(file.id).content == path.read_bytes()
    other = client.files.create(file=("more.jsonl", requests(1)), purpose="batch")
    newest = [listed.id for listed, _ in zip(client.files.list(limit=1, purpose="batch"), range(2), strict=False)]
    assert newest == [other.id, file.id]  # over two pages
    assert client.files.delete(file.id).deleted
    with pytest.raises(openai.NotFoundError):
        client.files.retrieve(file.id)


def test_a_batch_is_cancelled(farm: RunningFarm, client: openai.OpenAI) -> None:
    farm.call("POST", "/farm/v1/pause")
    batch = create(client, requests(20))
    wait_for(lambda: client.batches.retrieve(batch.id).status == "in_progress")
    assert client.batches.cancel(batch.id).status in ("cancelling", "cancelled")

    batch = end_of(client, batch)
    farm.call("POST", "/farm/v1/resume")

    assert (batch.status, batch.output_file_id) == ("cancelled", None)
    assert {line["error"]["code"] for line in results(client, batch.error_file_id)} == {"batch_cancelled"}
    with pytest.raises(openai.BadRequestError, match="completion_window"):
        client.batches.create(
            input_file_id=batch.input_file_id,
            endpoint="/v1/images/generations",
            completion_window="soon",  # type: ignore[arg-type]
        )


def test_a_file_that_is_no_jsonl_fails_with_its_lines(client: openai.OpenAI) -> None:
    batch = end_of(client, create(client, requests(1) + b"no json\n"))

    assert batch.status == "failed"
    assert batch.errors
    assert [(error.line, error.code) for error in batch.errors.data or ()] == [(2, "invalid_json_line")]


@pytest.mark.timeout(240)
def test_two_thousand_lines_have_one_result_each_although_the_process_that_reads_them_is_killed(
    farm: RunningFarm, client: openai.OpenAI
) -> None:
    """The background process dies twice, with kill -9, in the middle of reading."""
    count, jobs_before = 2000, farm.redis.zcard(redis_keys.JOBS)

    def has_read(lines: int) -> bool:
        return farm.redis.zcard(redis_keys.JOBS) - jobs_before >= lines

    batch = create(client, requests(count))
    for lines in (300, 1200):
        wait_for(partial(has_read, lines), seconds=120, what=f"{lines} lines read")
        (background,) = pids(f"-m workers.background --data-dir {farm.data_dir}")
        os.kill(background, signal.SIGKILL)
    batch = end_of(client, batch, seconds=200)

    assert batch.request_counts
    assert batch.request_counts.model_dump() == {"total": count, "completed": count, "failed": 0}
    found = results(client, batch.output_file_id)
    assert [line["custom_id"] for line in found] == [f"fox-{number}" for number in range(count)]
    assert len({line["response"]["request_id"] for line in found}) == count
    assert [line["response"]["body"]["seed"] for line in found] == list(range(count))


@pytest.mark.full
def test_no_line_is_lost_or_doubled_wherever_the_process_dies_that_works_on_a_batch(tmp_path: Path) -> None:
    """It dies by kill -9 while it checks the lines, while it writes results, and between both files of results."""
    farm = RunningFarm(tmp_path / "data", environment={"FARM_SIMULATED_STEP_MS": "0"}, program="tests.faulty_farm")
    farm.start()
    try:
        with openai.OpenAI(base_url=f"{farm.url}/v1", api_key="any") as client:
            for number, command in enumerate(POINTS, 1):
                see_a_death(farm, client, command)
                assert farm.redis.zcard(redis_keys.JOBS) == 9 * number
    finally:
        assert farm.stop() == 0


def see_a_death(farm: RunningFarm, client: openai.OpenAI, command: str) -> None:
    """Have a batch of nine good lines and a bad one end although the process dies once."""
    planned = farm.data_dir / "faults" / command
    planned.touch()
    batch = end_of(client, create(client, requests(9) + requests(1, n=99).replace(b"fox-0", b"bad")))

    assert not planned.exists(), "it did not die"
    assert batch.request_counts
    assert (batch.status, batch.request_counts.model_dump()) == (
        "completed",
        {"total": 10, "completed": 9, "failed": 1},
    )
    assert [line["custom_id"] for line in results(client, batch.output_file_id)] == [f"fox-{n}" for n in range(9)]
    assert [line["custom_id"] for line in results(client, batch.error_file_id)] == ["bad"]
    written = [file.id for file in client.files.list(purpose="batch_output") if batch.id in file.filename]
    assert sorted(written) == sorted([str(batch.output_file_id), str(batch.error_file_id)])


def test_the_example_of_the_page_runs(farm: RunningFarm, capsys: pytest.CaptureFixture[str]) -> None:
    example, with_webhook, in_the_receiver = executed_by("test_the_example_of_the_page_runs")
    names: dict[str, Any] = {"secret": farm.cli("webhooks", "secret").stdout.strip()}
    with running_receiver() as receiver:
        for snippet in (example, with_webhook):
            here = snippet.code.replace("http://127.0.0.1:8000", farm.url)
            exec(here.replace("https://you.example/hook", receiver.url), names)
        (event,) = wait_for(lambda: receiver.received, what="the webhook")
    exec(in_the_receiver.code, names | {"body": event.body, "headers": event.headers})

    *foxes, verified = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in foxes] == ["fox-1", "fox-2", "fox-3"]
    assert re.fullmatch(r"batch.completed batch_\w+", verified)


def test_the_line_of_the_page_is_taken(client: openai.OpenAI) -> None:
    (snippet,) = executed_by("test_the_line_of_the_page_is_taken")

    batch = end_of(client, create(client, snippet.code.encode()))

    (line,) = results(client, batch.output_file_id)
    assert line["custom_id"] == "fox-1"
    assert line["response"]["body"]["data"][0]["url"]
