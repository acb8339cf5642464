"""Farms for tests: a Redis of one's own, and whole farms as real processes."""

from __future__ import annotations

import io
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import redis
import urllib3
from PIL import Image

from farm.process import child, embedded_redis

T = TypeVar("T")


def wait_for(condition: Callable[[], T], *, seconds: float = 20, what: str = "the condition") -> T:
    """Return the first true value of `condition`, which is polled."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if value := condition():
            return value
        time.sleep(0.01)
    raise AssertionError(f"{what} did not come true within {seconds} s")


def empty(client: redis.Redis) -> None:
    """Delete everything in a Redis, in portions: a hundred thousand jobs at once would exceed its time to answer."""
    client.flushall(asynchronous=True)
    wait_for(lambda: client.info("memory")["lazyfree_pending_objects"] == 0, what="an empty Redis")


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def pids(pattern: str) -> list[int]:
    """Return the processes whose command line contains `pattern`, without this one."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
            except (FileNotFoundError, ProcessLookupError):
                continue
            if pattern in words and state != "Z":
                found.append(int(entry.name))
    return sorted(found)


@contextmanager
def folder_in_memory() -> Iterator[Path]:
    """Yield a folder in memory, if the machine has one: a busy disk would stall a Redis."""
    memory = Path("/dev/shm")
    path = Path(tempfile.mkdtemp(prefix="srpo-farm-", dir=memory if memory.is_dir() else None))
    yield path
    shutil.rmtree(path, ignore_errors=True)


class Answer:
    """An HTTP answer: `status`, `headers`, and the body as JSON or bytes."""

    def __init__(self, response: urllib3.BaseHTTPResponse) -> None:
        self.status = response.status
        self.headers = response.headers
        self.body = bytes(response.data)

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Certificate:
    """The certificate of a farm over HTTPS, its private key, and the authority that signed it."""

    chain: Path
    key: Path
    authority: Path


class RunningFarm:
    """A `farm up` in processes of its own."""

    def __init__(
        self,
        data_dir: Path,
        *,
        workers: int = 1,
        environment: dict[str, str] | None = None,
        certificate: Certificate | None = None,
        program: str = "farm.cli",
        folder: Path | None = None,
    ) -> None:
        self.data_dir = data_dir
        self.port = free_port()
        self.url = f"{'https' if certificate else 'http'}://127.0.0.1:{self.port}"
        self._certificate = certificate
        self._workers = workers
        self._program = program
        self._folder = folder
        self._environment = clean_environment() | {"FARM_PIPELINE": "simulated"} | (environment or {})
        authority = str(certificate.authority) if certificate else None
        self._http = urllib3.PoolManager(retries=False, timeout=30, maxsize=16, ca_certs=authority)
        self.process: subprocess.Popen[str] | None = None

    def start(self, *, seconds: float = 60) -> None:
        """Start the farm and wait for its readiness line."""
        words = ("up", "--port", str(self.port), "--workers", str(self._workers))
        # Programs of the tests are found in this repository's folder only.
        program = child.module(self._program, *words) if self._folder else [sys.executable, "-m", self._program, *words]
        if self._certificate:
            program += ["--tls-cert", str(self._certificate.chain), "--tls-key", str(self._certificate.key)]
        self.log = self.data_dir.with_suffix(".log")
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                child.command(*program, "--data-dir", str(self.data_dir)),
                cwd=self._folder,
                env=self._environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line == f"farm ready: {self.url}\n", f"{line!r}\n{self.log.read_text()[-3000:]}"

    def stop(self) -> int:
        """Ask the farm to drain, and return its exit status."""
        assert self.process is not None
        self._http.clear()  # the API would wait two seconds for what may still come over them
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(60)
        assert self.process.stdout is not None
        self.process.stdout.close()
        return status

    def cli(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a client command against this farm."""
        return farm_command(*words, environment={"FARM_URL": self.url})

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        content = body if isinstance(body, bytes | None) else json.dumps(body).encode()
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return Answer(self._http.request(method, self.url + path, body=content, headers=named))

    def submit(self, **fields: object) -> str:
        """Submit a job, with a small image unless told otherwise, and return its id."""
        body = {"model": "srpo", "prompt": "a fox", "image_size": {"width": 256, "height": 256}} | fields
        answer = self.call("POST", "/farm/v1/jobs", body)
        assert answer.status == 202, answer.body
        job_id: str = answer.json["id"]
        return job_id

    def job(self, job_id: str) -> dict[str, Any]:
        answer = self.call("GET", f"/farm/v1/jobs/{job_id}")
        assert answer.status == 200, answer.body
        view: dict[str, Any] = answer.json
        return view

    def wait_for_end(self, job_id: str, *, seconds: float = 60) -> dict[str, Any]:
        def ended() -> dict[str, Any] | None:
            view = self.job(job_id)
            return view if view["status"] in ("completed", "failed") else None

        found = wait_for(ended, seconds=seconds, what=f"the end of {job_id}")
        assert found is not None
        return found

    def wait_for_state(self, job_id: str, state: str, *, seconds: float = 20) -> None:
        wait_for(lambda: self.job(job_id)["status"] == state, seconds=seconds, what=f"{job_id} {state}")

    def fetch(self, url: str) -> bytes:
        """Return the content at one of this farm's own URLs."""
        assert url.startswith(f"{self.url}/"), url
        answer = self.call("GET", url.removeprefix(self.url))
        assert answer.status == 200, answer.body
        return answer.body

    def image(self, view: dict[str, Any], number: int = 0) -> bytes:
        return self.fetch(view["images"][number]["url"])

    @property
    def redis(self) -> redis.Redis:
        """The farm's own job store."""
        url = embedded_redis.address(self.data_dir)
        assert url is not None
        return redis.Redis.from_url(url, decode_responses=True)

    def worker_pids(self) -> list[int]:
        return pids(f"-m workers --data-dir {self.data_dir}")

    def redis_pids(self) -> list[int]:
        return [pid for pid in pids(str(self.data_dir)) if "valkey" in _name(pid) or "redis" in _name(pid)]

    def pids(self) -> list[int]:
        """Return every process of this farm."""
        redis_title = str(self.data_dir / "redis")
        return sorted({*pids(f"--data-dir {self.data_dir}"), *pids(redis_title)})


@contextmanager
def paused(farm: RunningFarm) -> Iterator[None]:
    """Start no job of this farm meanwhile."""
    farm.call("POST", "/farm/v1/pause")
    try:
        yield
    finally:
        farm.call("POST", "/farm/v1/resume")


@contextmanager
def running_farm(
    data_dir: Path, workers: int = 1, certificate: Certificate | None = None, /, **environment: str
) -> Iterator[RunningFarm]:
    """Yield a farm; it must drain and exit 0 afterwards."""
    farm = RunningFarm(data_dir, workers=workers, environment=environment, certificate=certificate)
    farm.start()
    try:
        yield farm
    finally:
        status = farm.stop()
    assert status == 0, farm.log.read_text()[-3000:]


@contextmanager
def own_redis(folder: Path, *options: str) -> Iterator[str]:
    """Yield the URL of a new Redis on a Unix socket."""
    folder.mkdir()
    address = folder / "own.sock"
    command = [
        embedded_redis.program(),
        "--port",
        "0",
        "--unixsocket",
        str(address),
        "--dir",
        str(folder),
        "--save",
        "",
    ]
    server = subprocess.Popen(child.command(*command, *options), stdout=subprocess.DEVNULL)
    try:
        wait_for(address.exists, what="the socket")
        yield f"unix://{address}"
    finally:
        server.kill()  # asked to leave, it refuses while it writes its first append-only file
        server.wait()


def farm_command(
    *words: str, environment: dict[str, str] | None = None, seconds: float = 60
) -> subprocess.CompletedProcess[str]:
    """Run `farm` with these words to its end."""
    return subprocess.run(
        [sys.executable, "-m", "farm.cli", *words],
        env=clean_environment() | (environment or {}),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )


def image_facts(source: bytes | Path) -> tuple[tuple[int, int], str | None]:
    """Return size in pixels and format of an image."""
    with Image.open(io.BytesIO(source) if isinstance(source, bytes) else source) as image:
        return image.size, image.format


def clean_environment() -> dict[str, str]:
    """Return this process's environment without any setting of the farm."""
    return {name: value for name, value in os.environ.items() if not name.startswith("FARM_")}


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text()
    except FileNotFoundError:
        return ""
