"""A real Prometheus for tests, from Debian's package."""

from __future__ import annotations

import json
import shutil
import subprocess
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from farm import clock
from farm.process import child
from tests.farms import free_port, wait_for


def debian_program(name: str, package: str) -> str:
    """Return the path of a program of a Debian package."""
    program = shutil.which(name)
    assert program, f"{name} is missing; run: sudo apt install {package}"
    return program


class Prometheus:
    """A Prometheus with these rules, which asks these targets each second or less often."""

    def __init__(
        self,
        folder: Path,
        targets: list[str],
        *,
        rules: Sequence[Path],
        scrape_seconds: int = 1,
        alertmanager: str | None = None,
    ) -> None:
        self.url = f"http://127.0.0.1:{free_port()}"
        self._targets = targets
        self._configuration = folder / "prometheus.yml"
        self._data = folder / "data"
        managers = [{"static_configs": [{"targets": [alertmanager]}]}] if alertmanager else []
        self._configuration.write_text(
            yaml.safe_dump(
                {
                    "global": {"scrape_interval": f"{scrape_seconds}s", "evaluation_interval": "1s"},
                    "rule_files": [str(path) for path in rules],
                    "alerting": {"alertmanagers": managers},
                    "scrape_configs": [{"job_name": "srpo-farm", "static_configs": [{"targets": targets}]}],
                }
            )
        )

    @contextmanager
    def running(self) -> Iterator[None]:
        """Run it, from when it has reached all targets."""
        program = debian_program("prometheus", "prometheus")
        address = self.url.removeprefix("http://")
        options = [f"--config.file={self._configuration}", f"--storage.tsdb.path={self._data}"]
        command = child.command(program, *options, f"--web.listen-address={address}")
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            everything = f"count(up == 1) == {len(self._targets)}"
            wait_for(lambda: self.query(everything), seconds=60, what="the targets in Prometheus")
            yield
        finally:
            process.terminate()
            process.wait(20)

    def query_range(self, expression: str, *, seconds: float, step: float) -> list[dict[str, Any]]:
        """Return the series of an expression over the last seconds."""
        now = clock.now_us() / 1e6
        query = urllib.parse.urlencode({"query": expression, "start": now - seconds, "end": now, "step": step})
        with urllib.request.urlopen(f"{self.url}/api/v1/query_range?{query}", timeout=5) as reply:
            found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
        return found

    def query(self, expression: str) -> list[dict[str, Any]]:
        """Return the samples of an expression now; none while Prometheus does not answer."""
        query = urllib.parse.urlencode({"query": expression})
        try:
            with urllib.request.urlopen(f"{self.url}/api/v1/query?{query}", timeout=5) as reply:
                found: list[dict[str, Any]] = json.load(reply)["data"]["result"]
        except OSError:
            return []
        return found

    def value(self, expression: str) -> float:
        (sample,) = self.query(expression)
        return float(sample["value"][1])
