"""Processes of a farm by themselves, each from a source tree of its own, on one Redis."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import redis
import urllib3

from farm.jobstore.stats import StoreStats
from farm.process import child
from tests.farms import Answer, clean_environment, wait_for

#: The folders that a farm runs from.
SOURCES = ("farm", "api", "workers")


class PlainProcesses:
    """Processes by name. Each is asked to end when the block does, and must have exited 0 by then, unless killed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._processes: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, name: str, words: Sequence[str], environment: Mapping[str, str], tree: Path) -> None:
        """Start `farm` with these words from a source tree."""
        command = child.command(sys.executable, "-m", "farm.cli", *words)
        settings = clean_environment() | {"PYTHONDONTWRITEBYTECODE": "1"} | dict(environment)
        with self.log(name).open("ab") as log:
            self._processes[name] = subprocess.Popen(command, env=settings, cwd=tree, stdout=log, stderr=log)

    def log(self, name: str) -> Path:
        return self._folder / f"{name}.log"

    def stop(self, *names: str) -> None:
        """Ask processes to end, and check that they do so well."""
        for name in names:
            self._processes[name].terminate()
        statuses = {name: self._processes.pop(name).wait(120) for name in names}
        assert set(statuses.values()) <= {0}, (statuses, *(self.log(name).read_text()[-2000:] for name in names))

    def kill(self, name: str) -> None:
        process = self._processes.pop(name)
        process.kill()
        process.wait()

    def stop_all(self) -> None:
        self.stop(*self._processes)

    def end(self) -> None:
        """End what still runs, after a failure."""
        for process in self._processes.values():
            process.kill()
            process.wait()


@contextmanager
def plain_processes(folder: Path) -> Iterator[PlainProcesses]:
    """Yield a group of processes whose logs are in `folder`."""
    processes = PlainProcesses(folder)
    try:
        yield processes
        processes.stop_all()
    finally:
        processes.end()


class Api:
    """An API at a URL, and the key with which it is called."""

    def __init__(self, port: int, key: str = "") -> None:
        self.url = f"http://127.0.0.1:{port}"
        self._headers = {"Authorization": f"Bearer {key}"} if key else {}
        self._http = urllib3.PoolManager(retries=False, timeout=30)

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return Answer(self._http.request(method, self.url + path, json=body, headers=self._headers | headers))

    def is_ready(self) -> bool:
        try:
            return self.call("GET", "/readyz").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def submit(self, **fields: Any) -> str:
        body = {"model": "srpo", "prompt": "a fox", "image_size": {"width": 256, "height": 256}} | fields
        answer = self.call("POST", "/farm/v1/jobs", body)
        assert answer.status == 202, answer.body
        return str(answer.json["id"])

    def wait_for_end(self, job_id: str) -> Any:
        """Return the job once it has completed."""

        def ended() -> Any:
            job = self.call("GET", f"/farm/v1/jobs/{job_id}").json
            assert job["status"] != "failed", job
            return job if job["status"] == "completed" else None

        return wait_for(ended, seconds=120, what=f"the end of {job_id}")


def wait_for_workers(client: redis.Redis, count: int) -> None:
    """Wait until so many render workers are warm."""

    def warm() -> bool:
        return sum(worker.facts.get("state") == "warm" for worker in StoreStats(client).workers()) == count

    wait_for(warm, seconds=120, what=f"{count} warm workers")


def contents(tree: Path) -> dict[str, tuple[int, int]]:
    """Return every path of a source tree, with its size and the time of its last change."""
    found = (Path(folder, name) for folder, _, names in os.walk(tree) for name in names)
    return {str(path.relative_to(tree)): (path.stat().st_size, path.stat().st_mtime_ns) for path in found}
