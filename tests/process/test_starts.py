"""How a farm starts and stops, and what a start that cannot work says."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import urllib3

from tests.farms import clean_environment, free_port, pids, running_farm, wait_for


def test_a_closed_terminal_drains_the_api_and_the_whole_farm(data_dir: Path, tmp_path: Path) -> None:
    """The terminal sends SIGHUP to every process of its foreground group. The API has no process but its one."""
    with running_farm(data_dir, FARM_SIMULATED_STEP_MS="100") as farm:
        api = [sys.executable, "-m", "farm.cli", "api", "--port", str(free_port()), "--data-dir", str(data_dir)]
        home = clean_environment() | {"HOME": str(tmp_path / "home"), "XDG_RUNTIME_DIR": str(tmp_path / "run")}
        (tmp_path / "home").mkdir()
        (tmp_path / "run").mkdir()
        with subprocess.Popen(api, env=home, start_new_session=True) as second:
            port = api[api.index("--port") + 1]
            wait_for(lambda: len(pids(f"--port {port}")) == 2, what="the second API")
            wait_for(lambda: answers(int(port)), what="its answer")
            for number in (signal.SIGTTIN, signal.SIGUSR2):
                second.send_signal(number)
            os.killpg(second.pid, signal.SIGHUP)
            assert second.wait(30) == 0
        assert pids(f"--port {port}") == []
        assert [*(tmp_path / "home").iterdir(), *(tmp_path / "run").iterdir()] == []

        farm.submit(num_inference_steps=50)
        assert farm.process is not None
        farm.process.send_signal(signal.SIGHUP)
        assert farm.process.wait(30) == 0
        assert farm.pids() == []
        assert "worker has drained" in farm.log.read_text()


def answers(port: int) -> bool:
    try:
        return urllib3.request("GET", f"http://127.0.0.1:{port}/readyz", retries=False, timeout=2).status == 200
    except urllib3.exceptions.HTTPError:
        return False
