"""The topology of `deploy/compose.yaml` as plain processes on loopback, with its own commands and settings."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest
import redis
import yaml

from farm.process import child, embedded_redis
from tests.farms import farm_command, folder_in_memory, free_port, image_facts, wait_for
from tests.plain_processes import SOURCES, Api, contents, plain_processes, wait_for_workers
from tests.s3 import BUCKET, S3, SECRET, USER
from tests.unit.deploy import DEPLOY
from tests.webhook_receiver import running_receiver

_ROOT = DEPLOY.parent
#: What a person writes into `deploy/.env`.
_ENV = {"S3_KEY": USER, "S3_SECRET": SECRET, "GRAFANA_PASSWORD": "x"}
#: The services that make the farm; the others are nginx, the S3 server of the tests, and the monitoring.
_FARM = ("api", "webhooks", "worker-cpu")


@dataclass(frozen=True)
class Service:
    """A service: the words after `farm`, its settings, and how many of it there are."""

    words: list[str]
    environment: dict[str, str]
    replicas: int


def compose() -> dict[str, Any]:
    """Return the file with the values of `.env`, or the defaults."""

    def value(match: re.Match[str]) -> str:
        name, default = match[1], match[2]
        return _ENV.get(name) or (default or "")

    text = re.sub(r"\$\{(\w+)(?::-([^}]*)|:\?[^}]*)?\}", value, (DEPLOY / "compose.yaml").read_text())
    loaded: dict[str, Any] = yaml.safe_load(text)
    return loaded


def service(name: str) -> Service:
    """Return a service of the farm as its image and the file start it."""
    declared = compose()["services"][name]
    image = (_ROOT / _dockerfile(name)).read_text()
    assert re.findall(r"^ENTRYPOINT (.*)$", image, re.MULTILINE) == ['["farm"]']
    usual = json.loads(re.findall(r"^CMD (\[.*\])$", image, re.MULTILINE)[-1])
    of_image = dict(re.findall(r"\b(FARM_\w+)=(\S+)", " ".join(re.findall(r"^ENV (.*)$", image, re.MULTILINE))))
    replicas = declared.get("deploy", {}).get("replicas", 1)
    return Service(declared.get("command", usual), of_image | declared["environment"], replicas)


def _dockerfile(name: str) -> str:
    """Return the file that builds a service's image; the webhook worker has that of the API."""
    services = compose()["services"]
    image = services[name]["image"]
    (file,) = {each["build"]["dockerfile"] for each in services.values() if each["image"] == image and "build" in each}
    return str(file)


@contextmanager
def valkey(folder: Path) -> Iterator[str]:
    """Run the file's Valkey with its own options, and yield its URL."""
    _, *options = compose()["services"]["valkey"]["command"]
    port = free_port()
    command = [embedded_redis.program(), *options, "--port", str(port), "--bind", "127.0.0.1", "--dir", str(folder)]
    server = subprocess.Popen(child.command(*command), stdout=subprocess.DEVNULL)
    try:
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        server.kill()
        server.wait()


def on_loopback(settings: Mapping[str, str], hosts: Mapping[str, str]) -> dict[str, str]:
    """Return settings in which the names of other services are their addresses here."""
    found = {}
    for name, value in settings.items():
        host = urlsplit(value).netloc
        found[name] = value.replace(host, hosts[host]) if host in hosts else value
    return found


def read_only_tree(folder: Path) -> Path:
    """Copy the sources, without the right to write."""
    for name in SOURCES:
        shutil.copytree(_ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__"))
    for path in (folder, *folder.rglob("*")):
        path.chmod(path.stat().st_mode & ~0o222)
    return folder


@pytest.fixture
def tree() -> Iterator[Path]:
    with folder_in_memory() as folder:
        yield read_only_tree(folder / "tree")
        for path in (folder / "tree", *(folder / "tree").rglob("*")):
            path.chmod(path.stat().st_mode | 0o200)


def test_the_composed_farm_serves_through_either_api(tmp_path: Path, s3: S3, tree: Path) -> None:
    before = contents(tree)
    assert service("api").replicas == 2
    with valkey(tmp_path) as redis_url, running_receiver() as receiver, plain_processes(tmp_path) as processes:
        hosts = {"valkey:6379": urlsplit(redis_url).netloc, "s3:8333": f"127.0.0.1:{s3.port}"}
        place = s3.place()
        ports = [free_port(), free_port()]
        here = {
            "FARM_STORAGE_URL": f"s3://{BUCKET}/{place.prefix}",
            "FARM_PUBLIC_URL": f"http://127.0.0.1:{ports[1]}",
            "FARM_AUTH": "keys",  # as on any address but loopback
            "FARM_PIPELINE": "simulated",
            "FARM_WEBHOOK_ALLOW": "127.0.0.1",
        }
        client = redis.Redis.from_url(redis_url, decode_responses=True)
        wait_for(lambda: _answers(client), what="Valkey")
        key = farm_command(
            "keys", "create", "alice", "--admin", environment={"FARM_REDIS_URL": redis_url}
        ).stdout.strip()
        for name in _FARM:
            declared = service(name)
            for number in range(declared.replicas):
                settings = on_loopback(declared.environment, hosts) | here | _own_metrics(declared)
                words = _words(declared.words, tmp_path / f"{name}-{number}", ports[number])
                processes.start(f"{name}-{number}", words, settings, tree)
        first, second = (Api(port, key) for port in ports)
        wait_for(lambda: first.is_ready() and second.is_ready(), seconds=120, what="both APIs")
        wait_for_workers(client, 1)

        job_ids = [api.submit(webhook_url=receiver.url, webhook_events=["job.completed"]) for api in (first, second)]
        shown = [api.wait_for_end(job_id) for api, job_id in zip((second, first), job_ids, strict=True)]
        wait_for(lambda: _notified(receiver.received) == {*job_ids}, seconds=120, what="both webhooks")
        processes.kill("api-0")
        last = second.submit()

        paths = [urlsplit(job["images"][0]["url"]).path for job in (*shown, second.wait_for_end(last))]
        sizes = [image_facts(second.call("GET", path).body)[0] for path in paths]
        assert sizes == [(256, 256)] * 3
        assert len(place.names()) >= 3
    assert contents(tree) == before


def _answers(client: redis.Redis) -> bool:
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def _words(words: list[str], data_dir: Path, port: int) -> list[str]:
    """Return the command with a port and a data folder of its own, on loopback."""
    own = {"8000": str(port), "/tmp/farm": str(data_dir), "0.0.0.0": "127.0.0.1"}
    return [own.get(word, word) for word in words]


def _own_metrics(declared: Service) -> dict[str, str]:
    """Return the setting of a port for metrics that is free here, where the image sets one."""
    return {"FARM_METRICS_PORT": str(free_port())} if "FARM_METRICS_PORT" in declared.environment else {}


def _notified(received: list[Any]) -> set[str]:
    return {each.json["data"]["id"] for each in received}
