"""The examples of the README and of the providers' pages work, run by the providers' own clients."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import IO

import pytest
from PIL import Image

from tests import javascript
from tests.docs_snippets import DOCS, Snippet, executed_by, farm_lines, joined_lines, name_of
from tests.farms import RunningFarm, clean_environment, free_port, image_facts, running_farm, wait_for
from tests.s3 import S3
from tests.webhook_receiver import running_receiver

README = DOCS.parent / "README.md"
#: The farm of the pages.
FARM = "http://127.0.0.1:8000"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    environment = {"FARM_SIMULATED_STEP_MS": "1", "FARM_WEBHOOK_ALLOW": "127.0.0.1/32"}
    with running_farm(tmp_path_factory.mktemp("pages") / "data", **environment) as farm:
        yield farm


def test_every_page_has_both_languages() -> None:
    pages = {path.name for path in DOCS.glob("coming-from-*.md")}

    assert len(pages) == 5
    javascript_pages = {snippet.page for snippet in executed_by("test_the_javascript_of_a_page_brings_an_image")}
    python_pages = {snippet.page for snippet in executed_by("test_the_python_of_a_page_brings_an_image")}
    assert (javascript_pages, python_pages) == (pages, {README.name, *pages})


@pytest.mark.parametrize("snippet", executed_by("test_the_python_of_a_page_brings_an_image"), ids=name_of)
def test_the_python_of_a_page_brings_an_image(farm: RunningFarm, tmp_path: Path, snippet: Snippet) -> None:
    Image.new("RGB", (256, 256), "orange").save(tmp_path / "fox.png")
    done = subprocess.run(
        [sys.executable, "-c", snippet.code.replace(FARM, farm.url)],
        cwd=tmp_path,
        env=clean_environment() | {"FAL_KEY": "any"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert_is_an_image(farm, done.stdout)


def test_the_readmes_commands_work_one_after_the_other(farm: RunningFarm, tmp_path: Path) -> None:
    snippets = executed_by("test_the_readmes_commands_work_one_after_the_other")
    commands = [line for snippet in snippets for line in joined_lines(snippet.code)]
    assert {command.split()[0] for command in commands} == {".venv/bin/farm", "curl"}

    for command in commands:
        program = command.replace(".venv/bin/farm", f"{sys.executable} -m farm.cli").replace(FARM, farm.url)
        done = run_shell(program, tmp_path, {"FARM_URL": farm.url, "PYTHONPATH": str(README.parent)})
        assert done.returncode == 0, (command, done.stderr)
        assert '"errors"' not in done.stdout, (command, done.stdout)


@pytest.fixture
def prepared(tmp_path: Path, farm: RunningFarm) -> Iterator[dict[str, str]]:
    """Yield what stands for the placeholders of the pages' commands, with the files that they read in the folder."""
    (tmp_path / "prompts.txt").write_text("# foxes\na red fox\n")
    (tmp_path / "prompts.csv").write_text("prompt,image_size\na red fox,square\n")
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "a red fox", "image_size": "square"}\n')
    (trace,) = executed_by("test_the_commands_of_a_page_work", "csv")
    (tmp_path / "yesterday.csv").write_text(trace.code)
    with running_receiver() as receiver:
        farm.wait_for_end(farm.submit(webhook_url=receiver.url, webhook_events=["job.completed"]))
        (delivery,) = farm.call("GET", "/farm/v1/deliveries?limit=1").json["deliveries"]
        yield {" ID": f" {delivery['id']}", "https://you.example/hook": receiver.url}


@pytest.mark.full
@pytest.mark.parametrize("snippet", executed_by("test_the_commands_of_a_page_work", "sh"), ids=name_of)
def test_the_commands_of_a_page_work(
    farm: RunningFarm, s3: S3, prepared: dict[str, str], tmp_path: Path, snippet: Snippet
) -> None:
    bucket = s3.place()
    commands = joined_lines(snippet.code)
    assert len(farm_lines(snippet.code)) == len(commands) > 2
    for command in commands:
        for placeholder, value in {**prepared, "s3://bucket": bucket.url, ".venv/bin/farm": "farm"}.items():
            command = command.replace(placeholder, value)
        program = re.sub(r"(^|[ |])farm ", rf"\1{sys.executable} -m farm.cli ", command)
        environment = {"FARM_URL": farm.url, "PYTHONPATH": str(README.parent), **s3.environment()}
        done = run_shell(program, tmp_path, environment)
        assert done.returncode == 0, (command, done.stderr)
    assert bool(bucket.names()) == (snippet.page == "high-volume.md")


def test_curl_follows_all_jobs(farm: RunningFarm) -> None:
    (snippet,) = executed_by("test_curl_follows_all_jobs")
    program = "exec " + snippet.code.replace(FARM, farm.url)
    environment = clean_environment() | {"FARM_API_KEY": "any"}
    with subprocess.Popen(["bash", "-c", program], env=environment, stdout=subprocess.PIPE, text=True) as curl:
        assert curl.stdout is not None
        read_until(curl.stdout, "event: listening")
        job_id = farm.submit()
        read_until(curl.stdout, "event: job.created")
        assert json.loads(read_until(curl.stdout, "data: ").removeprefix("data: "))["id"] == job_id
        curl.kill()


def read_until(stream: IO[str], begins: str) -> str:
    """Return the next line that begins so."""
    return next(line for line in stream if line.startswith(begins))


def test_a_call_is_followed_through_the_log(farm: RunningFarm, tmp_path: Path) -> None:
    (snippet,) = executed_by("test_a_call_is_followed_through_the_log")
    farm.call("POST", "/farm/v1/jobs", {"model": "srpo", "prompt": "a fox"}, X_Request_Id="my-id")

    wait_for(lambda: "my-id" in farm.log.read_text(), what="the job in the log")
    shutil.copy(farm.log, tmp_path / "farm.log")

    assert "job accepted" in run_shell(snippet.code, tmp_path, {}).stdout


@pytest.mark.full
def test_the_receiver_of_the_page_is_run(farm: RunningFarm, tmp_path: Path) -> None:
    (snippet,) = executed_by("test_the_receiver_of_the_page_is_run")
    *_, command = [line.removeprefix("$ ") for line in joined_lines(snippet.code)]
    (receiver,) = executed_by("test_the_receiver_answers_204_to_what_is_signed_and_401_to_the_rest")
    port = free_port()
    (tmp_path / "receiver.py").write_text(receiver.code.replace("9000", str(port)))
    program = command.replace(".venv/bin/python", "exec python").replace(".venv/bin/farm", "python -m farm.cli")
    environment = clean_environment() | {"FARM_URL": farm.url, "PYTHONPATH": str(README.parent)}
    with subprocess.Popen(
        ["bash", "-c", program.replace("python", sys.executable)],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            test = partial(farm.cli, "webhooks", "test", f"http://127.0.0.1:{port}")
            wait_for(lambda: test().returncode == 0, seconds=60, what="the receiver")
            assert process.stdout is not None
            assert process.stdout.readline() == "test\n"
        finally:
            process.kill()


def run_shell(program: str, folder: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["bash", "-c", program],
        cwd=folder,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_every_image_of_the_readme_is_there() -> None:
    images = re.findall(r"!\[[^\]]+\]\(([^)]+)\)", README.read_text())

    assert len(images) == 11
    assert [image for image in images if not (README.parent / image).is_file()] == []


def test_every_route_of_the_api_page_is_in_the_openapi_document(farm: RunningFarm) -> None:
    page = (DOCS / "http-api.md").read_text()
    named = re.findall(r"`(GET|POST|PUT|DELETE) (/[^`…]+)`", page)
    routes = {(method, without_names(path)) for method, path in named if "{model id}" not in path}
    documented = farm.call("GET", "/openapi.json").json["paths"]
    known = {(method.upper(), without_names(path)) for path, calls in documented.items() for method in calls}

    assert len(routes) > 25
    assert sorted(routes - known) == []


def without_names(path: str) -> str:
    """Return a path with its parameters' names removed."""
    return re.sub(r"{[^}]*}", "{}", path)


@pytest.mark.parametrize("snippet", executed_by("test_the_javascript_of_a_page_brings_an_image"), ids=name_of)
def test_the_javascript_of_a_page_brings_an_image(farm: RunningFarm, snippet: Snippet) -> None:
    assert_is_an_image(farm, javascript.run(snippet.code.replace(FARM, farm.url)).output)


@pytest.mark.parametrize(
    "path",
    [
        "/fal/run/fal-ai/flux/srpo/stream",
        "/fal/run/fal-ai/flux/srpo/realtime",
        "/fal/rest/tokens/",
        "/fal/queue/workflows/owner/flow",
        "/fal/queue/comfy/owner/flow",
        "/fal/queue/fal-ai/flux-pro/v1.1-ultra",
        "/api/v3/balance",
        "/api/v3/wavespeed-ai/flux-dev",
    ],
)
def test_routes_that_the_pages_do_not_offer_are_404(farm: RunningFarm, path: str) -> None:
    assert farm.call("POST", path, {"prompt": "a fox"}).status == 404


def assert_is_an_image(farm: RunningFarm, output: str) -> None:
    """Check that a line names an image of the farm, or the type of one that the client has downloaded."""
    (result,) = [line for line in output.splitlines() if line.startswith(("image/", f"{farm.url}/files/"))]
    if not result.startswith("image/"):
        _, kind = image_facts(farm.call("GET", result.removeprefix(farm.url)).body)
        assert kind in ("JPEG", "PNG")
