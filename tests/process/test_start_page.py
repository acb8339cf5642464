"""The commands of docs/start.md, one after the other."""

from __future__ import annotations

import re
import shlex
import shutil
import subprocess
import sys
import urllib.request
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


@pytest.mark.full
def test_prometheus_reads_the_farm_and_the_alerts(farm: RunningFarm, tmp_path: Path) -> None:
    (snippet,) = executed_by("test_prometheus_reads_the_farm_and_the_alerts")
    command = snippet.code.removeprefix("$ ").split()
    deploy = tmp_path / "deploy" / "prometheus"
    shutil.copytree(DOCS.parent / "deploy" / "prometheus", deploy)
    configuration = deploy / "one-machine.yml"
    text = configuration.read_text().replace("127.0.0.1:8000", farm.url.removeprefix("http://"))
    configuration.write_text(text.replace("15s", "1s"))
    address = f"127.0.0.1:{free_port()}"
    options = [f"--web.listen-address={address}"]

    with subprocess.Popen([*command, *options], cwd=tmp_path, stderr=subprocess.DEVNULL) as process:
        try:
            wait_for(lambda: answer(address, "targets?state=active").count('"health":"up"') == 1, what="the target")
            assert "FarmAbsent" in answer(address, "rules?type=alert")
        finally:
            process.terminate()


def answer(address: str, path: str) -> str:
    """Return what Prometheus answers, or nothing while it does not listen."""
    try:
        with urllib.request.urlopen(f"http://{address}/api/v1/{path}", timeout=5) as reply:
            return str(reply.read(), "utf-8")
    except OSError:
        return ""
