"""The commands of docs/start.md, one after the other."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.docs_snippets import DOCS, executed_by
from tests.farms import RunningFarm, farm_command, free_port, running_farm, wait_for

START = (DOCS / "start.md").read_text()


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    allowed = re.findall(r"FARM_WEBHOOK_ALLOW=(\S+)", START)[0]
    environment = {"FARM_SIMULATED_STEP_MS": "1", "FARM_WEBHOOK_ALLOW": allowed}
    with running_farm(tmp_path_factory.mktemp("start") / "data", **environment) as running:
        yield running


def test_the_command_renders(farm: RunningFarm, tmp_path: Path) -> None:
    (snippet,) = executed_by("test_the_command_renders")
    _, _, *words = shlex.split(snippet.code)

    farm_command(*words, "--out", str(tmp_path), environment={"FARM_URL": farm.url})

    assert len(list(tmp_path.glob("*.jpeg"))) == 1


def test_the_first_webhook_arrives(farm: RunningFarm, tmp_path: Path) -> None:
    port, log = free_port(), tmp_path / "receiver.log"
    submit, receiver, submit_with_webhook = executed_by("test_the_first_webhook_arrives")
    with log.open("wb") as output:
        program = [sys.executable, "-u", "-c", receiver.code.replace("9000", str(port))]
        process = subprocess.Popen(program, stdout=output, stderr=output)
    try:
        commands = submit.code + submit_with_webhook.code
        commands = commands.replace("http://127.0.0.1:8000", farm.url).replace("9000", str(port))
        done = subprocess.run(["bash", "-ec", commands], capture_output=True, text=True, timeout=30, check=True)
        assert '"errors"' not in done.stdout
        wait_for(lambda: "job.completed" in log.read_text(), seconds=30, what="the webhook")
    finally:
        process.terminate()
        process.wait(10)
