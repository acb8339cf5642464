"""The contestants: how each is started, and asked for an image."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import urllib3

from tests.farms import clean_environment, free_port, own_redis, running_farm, wait_for

#: Workers of each, with a core each: what the farm takes by itself.
WORKERS = os.cpu_count() or 1
SIZE, STEPS = 512, 28
#: Peers see the farm's own environment below theirs.
_PYTHON = str(Path(".venv-peers/bin/python").absolute())
#: A core for each worker, as the farm gives its own; Ray's are not lowered in priority.
_EQUAL_TERMS = {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0"}
_START_SECONDS = 240.0
_TIMEOUT = urllib3.Timeout(connect=5, read=65)

Ask = Callable[[urllib3.PoolManager, int], bool]


@dataclass(frozen=True, slots=True)
class Contestant:
    """A running server: `ask` has image number n rendered, and returns True if it came.

    `roots`: its processes, without those that they started.
    """

    name: str
    ask: Ask
    roots: tuple[int, ...]
    is_peer: bool = True

    @property
    def processes(self) -> list[int]:
        """Process ids of all its processes."""
        return [pid for root in self.roots for pid in (root, *descendants(root))]


def _post(url: str, body: Callable[[int], Mapping[str, Any]], http: urllib3.PoolManager, number: int) -> bool:
    try:
        response = http.request("POST", url, json=body(number), timeout=_TIMEOUT, retries=False)
    except urllib3.exceptions.HTTPError:
        return False
    return response.status == 200 and len(response.data) > 1000


def _peer_request(number: int) -> Mapping[str, Any]:
    return {"prompt": f"a red circle, number {number}", "seed": number, "height": SIZE, "width": SIZE, "steps": STEPS}


def _farm_request(acceleration: str, number: int) -> Mapping[str, Any]:
    size = {"width": SIZE, "height": SIZE}
    # Direct call of fal's dialect, with the image in the answer.
    return {
        "prompt": f"a red circle, number {number}",
        "seed": number,
        "image_size": size,
        "sync_mode": True,
        "num_inference_steps": STEPS,
        "acceleration": acceleration,
    }


@contextmanager
def farm(folder: Path, forward: str, accelerations: Mapping[str, str]) -> Iterator[list[Contestant]]:
    """Yield a farm at its defaults but for FARM_FORWARD, as a contestant for each acceleration, by its name."""
    with running_farm(folder, WORKERS, None, FARM_PIPELINE="flux", FARM_FORWARD=forward) as running:
        assert running.process is not None
        url, roots = f"{running.url}/fal/run/fal-ai/flux/srpo", (running.process.pid,)
        yield [
            Contestant(name, partial(_post, url, partial(_farm_request, acceleration)), roots, is_peer=False)
            for acceleration, name in accelerations.items()
        ]


@contextmanager
def served(name: str, module: str, folder: Path) -> Iterator[list[Contestant]]:
    """Yield the contestant that a module of this folder serves."""
    port = free_port()
    with _running([module, str(port), str(WORKERS)], folder / f"{module}.log", {}) as root:
        yield [_ready(name, port, root)]


@contextmanager
def flask_celery(folder: Path) -> Iterator[list[Contestant]]:
    """Yield a Flask app under gunicorn that waits for Celery's workers, with a Redis of their own."""
    app, port = "tests.bench.peers.flask_celery", free_port()
    web = ["gunicorn", "--bind", f"127.0.0.1:{port}", "--threads", "16", f"{app}:web"]
    worker = ["celery", "-A", f"{app}:celery", "worker", "--concurrency", str(WORKERS), "--loglevel", "WARNING"]
    with own_redis(folder / "redis") as redis_url:
        environment = {"PEER_REDIS": redis_url.replace("unix://", "redis+socket://")}
        logs = folder / "web.log", folder / "celery.log"
        with _running(web, logs[0], environment) as app_root, _running(worker, logs[1], environment) as worker_root:
            yield [_ready("Flask and Celery", port, app_root, worker_root)]


@contextmanager
def _running(words: list[str], log: Path, environment: Mapping[str, str]) -> Iterator[int]:
    """Run a peer's module, a core to each of its workers, and end all its processes afterwards."""
    with log.open("wb") as output:
        process = subprocess.Popen(
            [_PYTHON, "-m", *words],
            env={**clean_environment(), **_EQUAL_TERMS, **environment},
            start_new_session=True,
            stdout=output,
            stderr=output,
        )
    try:
        yield process.pid
    finally:
        for pid in (*descendants(process.pid), process.pid):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        process.wait()


def _ready(name: str, port: int, *roots: int) -> Contestant:
    """Return the contestant once it has rendered an image."""
    ask = partial(_post, f"http://127.0.0.1:{port}/predict", _peer_request)
    with urllib3.PoolManager() as http:
        wait_for(lambda: ask(http, 0), seconds=_START_SECONDS, what=f"an image of {name}")
    return Contestant(name, ask, roots)


def descendants(pid: int) -> list[int]:
    """Return the processes below a process."""
    parents = {}
    for entry in Path("/proc").iterdir():
        with suppress(OSError, ValueError):
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            parents[int(entry.name)] = int(fields[1])
    found = [pid]
    for one in found:
        found += [child for child, parent in parents.items() if parent == one]
    return found[1:]
