"""`farm doctor`: a healthy farm, and faults planted in real ones, each reported with its remedy."""

from __future__ import annotations

import json
import os
import signal
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from socketserver import BaseRequestHandler, ThreadingTCPServer
from typing import Any

import pytest
import redis
from typer.testing import CliRunner

from farm import clock
from farm.auth.api_keys import ApiKeyStore
from farm.cli.main import app
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.process.data_dir import DataDir
from farm.process.embedded_redis import EmbeddedRedis
from tests.farms import RunningFarm, farm_command, free_port, own_redis, running_farm, wait_for
from tests.s3 import S3
from tests.service.jobstore.jobs import FACTS, TERMS, submit

SIMULATED = {"FARM_PIPELINE": "simulated"}
#: Seconds after which a worker counts as silent here.
LEASE = "2"


@dataclass(frozen=True)
class Report:
    """The findings of `farm doctor`, and its exit status."""

    status: int
    findings: list[dict[str, str]]

    def marks(self) -> dict[str, str]:
        """Return the worst mark of each check."""
        order = ("good", "note", "wrong")
        worst: dict[str, str] = {}
        for finding in self.findings:
            worst[finding["name"]] = max(worst.get(finding["name"], "good"), finding["mark"], key=order.index)
        return worst

    def says(self, name: str, mark: str) -> str:
        """Return the texts and remedies of a check's findings with this mark."""
        found = [finding for finding in self.findings if (finding["name"], finding["mark"]) == (name, mark)]
        assert found, self.findings
        assert all(finding["remedy"] for finding in found), found
        return "\n".join(f"{finding['text']} → {finding['remedy']}" for finding in found)

    def wrong(self, name: str) -> str:
        assert self.status == 1
        return self.says(name, "wrong")


def doctor(data_dir: Path, *words: str, **environment: str) -> Report:
    """Return the command's report on a data folder; it checks an unused port unless given another."""
    if "--port" not in words:
        words = (*words, "--port", str(free_port()))
    done = CliRunner().invoke(
        app, ["doctor", "--data-dir", str(data_dir), "--json", *words], env=SIMULATED | environment
    )
    result: dict[str, Any] = json.loads(done.stdout)
    assert result["healthy"] == (done.exit_code == 0)
    return Report(done.exit_code, result["findings"])


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("farm") / "data", FARM_LEASE_SECONDS=LEASE) as running:
        yield running


def doctor_of(farm: RunningFarm, *words: str, **environment: str) -> Report:
    return doctor(farm.data_dir, "--port", str(farm.port), *words, FARM_LEASE_SECONDS=LEASE, **environment)


@pytest.fixture(scope="module")
def own_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the URL of a new Redis."""
    with own_redis(tmp_path_factory.mktemp("own") / "redis", "--appendonly", "yes", "--maxmemory", "100mb") as url:
        yield url


@pytest.fixture
def own(own_url: str) -> Iterator[redis.Redis]:
    """Yield the same server, emptied and with its default configuration."""
    with closing(redis.Redis.from_url(own_url, decode_responses=True)) as client:
        client.flushall()
        yield client


@contextmanager
def configured(client: redis.Redis, option: str, value: str) -> Iterator[None]:
    """Yield a server with this option."""
    before = str(client.config_get(option)[option])
    client.config_set(option, value)
    try:
        yield
    finally:
        client.config_set(option, before)


@contextmanager
def stopped(pid: int) -> Iterator[None]:
    """Yield a process that is stopped by SIGSTOP."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


def wait_for_good_health(farm: RunningFarm) -> None:
    wait_for(lambda: doctor_of(farm).status == 0, what="good health")


def test_a_farm_in_good_health(farm: RunningFarm) -> None:
    """Every line is good, wherever the API listens, and the checks take less than five seconds."""
    done = farm_command("doctor", "--data-dir", str(farm.data_dir), environment=SIMULATED)

    lines = done.stdout.splitlines()
    assert done.returncode == 0, done.stdout
    assert {line[0] for line in lines} == {"✓"}, done.stdout
    checks = {"settings", "Python", "disk", "memory", "farm", "Redis", "persistence", "eviction", "connections"}
    checks |= {"rights", "clock", "storage", "weights", "port", "API", "keys", "workers", "queue", "webhooks"}
    assert checks <= {line.split()[1] for line in lines}
    assert f"127.0.0.1:{farm.port} belongs to this farm" in done.stdout
    assert "1 warm: simulated for srpo" in done.stdout
    assert "webhook workers: 1" in done.stdout

    began = clock.monotonic()
    doctor_of(farm)
    assert clock.monotonic() - began < 5


def test_no_farm_is_running(tmp_path: Path) -> None:
    """It is not a fault, and the check leaves nothing behind."""
    report = doctor(tmp_path / "data")

    assert report.status == 0
    assert f"farm up --data-dir {tmp_path / 'data'}" in report.says("farm", "note")
    assert {name for name, mark in report.marks().items() if mark != "good"} == {"farm"}
    assert list(tmp_path.iterdir()) == []


def test_a_setting_that_does_not_exist(tmp_path: Path) -> None:
    """It is named with its nearest, an unusable value with what is allowed, and the other checks are made."""
    report = doctor(tmp_path, FARM_LEASE_SECOND="3", FARM_QUEUE_LIMIT="none")

    assert "FARM_LEASE_SECOND is not a setting → did you mean FARM_LEASE_SECONDS?" in report.wrong("settings")
    assert "FARM_QUEUE_LIMIT=none is not valid → allowed: a whole number" in report.wrong("settings")
    assert {"storage", "port", "keys"} <= report.marks().keys()


def test_an_unusable_signing_key_is_reported(tmp_path: Path) -> None:
    report = doctor(tmp_path, FARM_SIGNING_KEY="not-a-key")

    assert "FARM_SIGNING_KEY cannot be used" in report.wrong("settings")
    assert "not-a-key" not in str(report)


def test_ones_own_redis_does_not_answer(tmp_path: Path) -> None:
    """Its password is not shown."""
    report = doctor(tmp_path, FARM_REDIS_URL=f"redis://me:secret@127.0.0.1:{free_port()}/0")

    assert "redis://…@127.0.0.1" in report.wrong("Redis")
    assert "FARM_REDIS_URL" in report.wrong("Redis")
    assert "secret" not in str(report)


def test_an_address_that_is_no_redis_shows_no_password(tmp_path: Path) -> None:
    report = doctor(tmp_path, FARM_REDIS_URL="redis://me:sec/ret@127.0.0.1:6379/0")

    assert "FARM_REDIS_URL: this is not a valid Redis URL" in report.wrong("Redis")
    assert "sec" not in report.wrong("Redis").replace("seconds", "")


def test_the_embedded_redis_is_dead_under_a_farm(tmp_path: Path) -> None:
    folder, server = DataDir(tmp_path / "data"), EmbeddedRedis(tmp_path / "data")
    folder.acquire()
    server.start()
    assert server.process is not None
    server.process.kill()
    server.process.wait()

    report = doctor(tmp_path / "data")
    folder.release()

    assert "the embedded server does not answer" in report.wrong("Redis")
    assert f"tail {tmp_path / 'data' / 'redis' / 'log'}" in report.wrong("Redis")


@pytest.mark.parametrize(
    ("name", "option", "value", "words"),
    [
        ("persistence", "appendonly", "no", ("append-only", "CONFIG SET appendonly yes")),
        ("eviction", "maxmemory-policy", "allkeys-lru", ("allkeys-lru", "CONFIG SET maxmemory-policy noeviction")),
    ],
)
def test_a_redis_that_would_lose_jobs(
    own: redis.Redis, own_url: str, tmp_path: Path, name: str, option: str, value: str, words: tuple[str, str]
) -> None:
    """With FARM_REDIS_UNSAFE it is a note instead of an error."""
    with configured(own, option, value):
        report = doctor(tmp_path, FARM_REDIS_URL=own_url)
        unsafe = doctor(tmp_path, FARM_REDIS_URL=own_url, FARM_REDIS_UNSAFE="1")

    assert all(word in report.wrong(name) for word in words)
    assert unsafe.status == 0
    assert words[0] in unsafe.says(name, "note")


@pytest.mark.parametrize(
    ("fsync", "mark", "words"),
    [
        ("always", "good", "on disk before Redis answers"),
        ("everysec", "good", "CONFIG SET appendfsync always"),
        ("no", "note", "CONFIG SET appendfsync everysec"),
    ],
)
def test_the_doctor_says_what_a_power_failure_may_cost(
    own: redis.Redis, own_url: str, tmp_path: Path, fsync: str, mark: str, words: str
) -> None:
    with configured(own, "appendfsync", fsync):
        report = doctor(tmp_path, FARM_REDIS_URL=own_url)

    (found,) = [finding for finding in report.findings if finding["name"] == "sync"]
    assert found["mark"] == mark
    assert words in found["text"] + found["remedy"]


def test_a_redis_that_is_too_full(own: redis.Redis, own_url: str, tmp_path: Path) -> None:
    used = own.info("memory")["used_memory"]
    with configured(own, "maxmemory", str(round(used / 0.9))):
        report = doctor(tmp_path, FARM_REDIS_URL=own_url)

    assert "submits stop at 80%" in report.wrong("Redis memory")
    assert "CONFIG SET maxmemory" in report.wrong("Redis memory")


def test_a_redis_that_is_a_replica(own: redis.Redis, own_url: str, tmp_path: Path) -> None:
    own.replicaof("127.0.0.1", free_port())
    try:
        report = doctor(tmp_path, FARM_REDIS_URL=own_url)
    finally:
        own.replicaof("NO", "ONE")

    assert "is a replica" in report.wrong("Redis")


def test_a_redis_that_runs_no_scripts(own: redis.Redis, own_url: str, tmp_path: Path) -> None:
    own.acl_setuser(
        "reader", enabled=True, passwords=["+secret"], keys=["*"], channels=["*"], commands=["+@all", "-eval"]
    )
    report = doctor(tmp_path, FARM_REDIS_URL=own_url.replace("unix://", "unix://reader:secret@"))
    own.acl_deluser("reader")

    assert "'eval' command" in report.wrong("rights")
    assert "secret" not in str(report)


def test_a_file_where_the_data_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "data").write_text("")

    report = doctor(tmp_path / "data")

    assert "Not a directory" in report.wrong("storage")
    assert "--data-dir" in report.wrong("storage")


class Greeter(BaseRequestHandler):
    """A server that speaks first, as mail servers do."""

    def handle(self) -> None:
        self.request.sendall(b"220 mail.example ESMTP\r\n")


class OtherService(BaseHTTPRequestHandler):
    """Another service, with a /readyz of its own."""

    server_version = "other/1"

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b'{"status": "ok"}')

    def log_message(self, *args: Any) -> None:
        """Log nothing."""


@pytest.mark.parametrize(
    ("handler", "who"), [(OtherService, "a web server (other/1"), (Greeter, "a program that does not speak HTTP")]
)
def test_a_port_of_another_program_is_reported(tmp_path: Path, handler: type[BaseRequestHandler], who: str) -> None:
    with ThreadingTCPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        report = doctor(tmp_path, "--port", str(server.server_address[1]))
        server.shutdown()

    assert f"is used by {who}" in report.wrong("port")
    assert f"ss -ltnp 'sport = :{server.server_address[1]}'" in report.wrong("port")


def test_a_port_that_another_farm_has(farm: RunningFarm, tmp_path: Path) -> None:
    assert "is used by another farm" in doctor(tmp_path, "--port", str(farm.port)).wrong("port")


def test_no_api_where_it_should_be(farm: RunningFarm) -> None:
    report = doctor(farm.data_dir)

    assert f"the API of this farm was started as {farm.url}" in report.wrong("API")


def test_an_api_beyond_this_machine_without_keys(farm: RunningFarm) -> None:
    assert "nobody could call 0.0.0.0 → run `farm keys create" in doctor_of(farm, "--host", "0.0.0.0").wrong("keys")
    assert "leave it unset" in doctor_of(farm, "--host", "0.0.0.0", FARM_AUTH="off").wrong("keys")
    assert "farm keys create NAME" in doctor_of(farm, FARM_AUTH="keys").wrong("keys")

    with closing(farm.redis) as client:
        callers = ApiKeyStore(client)
        callers.create("ada")
        assert doctor_of(farm, "--host", "0.0.0.0").status == 0
        callers.revoke("ada")


def test_a_hanging_redis(farm: RunningFarm) -> None:
    """The farm at the port is still known as this one, and it is not ready."""
    (pid,) = farm.redis_pids()
    with stopped(pid):
        report = doctor_of(farm)

    assert "the embedded server does not answer" in report.wrong("Redis")
    assert "not ready" in report.wrong("API")
    assert report.marks()["port"] == "good"
    wait_for_good_health(farm)


def test_a_hanging_worker_and_a_job_that_waits_for_it(farm: RunningFarm) -> None:
    (pid,) = farm.worker_pids()
    with stopped(pid):
        job_id = farm.submit(num_inference_steps=1)
        report = wait_for(lambda: next((r for r in [doctor_of(farm)] if r.marks()["workers"] == "wrong"), None))

    assert report is not None
    assert "no heartbeat from" in report.wrong("workers")
    assert f"kill -KILL {pid}" in report.wrong("workers")
    assert "no warm worker" in report.wrong("queue")
    assert farm.wait_for_end(job_id)["status"] == "completed"
    wait_for_good_health(farm)


def test_a_job_that_waits_beside_an_idle_worker(own: redis.Redis, own_url: str, tmp_path: Path) -> None:
    """Only a second look makes it a fault."""
    store = JobStore(own, replace(TERMS, lease_seconds=30))
    store.renew("w", FACTS, [])
    job_id = submit(store)
    own.zadd(redis_keys.queue_by_age("srpo", "normal"), {job_id: clock.now_us() - 60_000_000})

    report = doctor(tmp_path, FARM_REDIS_URL=own_url)

    assert "although w is idle" in report.wrong("queue")


def test_overdue_webhooks_are_reported(own: redis.Redis, own_url: str, tmp_path: Path) -> None:
    own.zadd(redis_keys.DELIVERY_QUEUES, {"local https://receiver.example": clock.now_us() - 90_000_000})

    assert "farm worker --webhooks" in doctor(tmp_path, FARM_REDIS_URL=own_url).wrong("webhooks")


def test_real_weights_that_are_not_there(tmp_path: Path) -> None:
    """The licences are not accepted, no checker is set, and the card is missing, too."""
    srpo = tmp_path / "srpo.safetensors"
    srpo.write_bytes(b"half a file")
    real = {"FARM_PIPELINE": "flux", "FARM_FLUX_DIR": str(tmp_path / "FLUX.1-dev"), "FARM_SRPO_FILE": str(srpo)}

    report = doctor(tmp_path / "data", "--digests", **real, FARM_DEVICE="cuda:99", FARM_ACCEPT_LICENSES="tencent-srpo")

    assert "lacks model_index.json" in report.wrong("weights")
    assert "hf download tencent/SRPO" in report.wrong("weights")
    assert "FARM_ACCEPT_LICENSES=tencent-srpo,flux-1-dev-non-commercial" in report.wrong("licences")
    assert "FARM_SAFETY=off" in report.wrong("safety")
    assert "cuda:99 does not exist" in report.wrong("device")
    assert "not a safetensors file" in report.wrong("digest")


def in_bucket(s3: S3, url: str, **changes: str) -> dict[str, str]:
    variables = s3.environment() | {"FARM_STORAGE_URL": url, "FARM_FILES": "presigned", "FARM_S3_ADDRESSING": "path"}
    return variables | changes


def test_a_bucket_in_good_health(s3: S3, tmp_path: Path) -> None:
    place = s3.place()
    report = doctor(tmp_path, **in_bucket(s3, place.url))

    assert report.status == 0
    (result,) = (finding["text"] for finding in report.findings if finding["name"] == "storage")
    assert all(f"{step} " in result for step in ("put", "get", "signed URL", "delete"))
    assert place.names() == []


def test_a_bucket_that_another_farm_has_marked(s3: S3, own: redis.Redis, own_url: str, tmp_path: Path) -> None:
    place = s3.place()
    own.set(redis_keys.FARM_ID, "1" * 32)
    place.put(f"farm-id-{'1' * 32}")
    variables = in_bucket(s3, place.url, FARM_REDIS_URL=own_url)
    assert doctor(tmp_path, **variables).status == 0

    place.put(f"farm-id-{'2' * 32}")

    result = doctor(tmp_path, **variables).wrong("storage")
    assert f"marks of other farms (farm-id-{'2' * 32})" in result
    assert "give each farm a bucket, a prefix or a folder of its own" in result


def test_a_bucket_that_cannot_be_used(s3: S3, tmp_path: Path) -> None:
    url = s3.place().url
    nobody = f"http://127.0.0.1:{free_port()}"

    wrong_secret = doctor(tmp_path, **in_bucket(s3, url, AWS_SECRET_ACCESS_KEY="not-the-secret"))
    no_bucket = doctor(tmp_path, **in_bucket(s3, "s3://no-such-bucket"))
    no_server = doctor(tmp_path, **in_bucket(s3, url, AWS_ENDPOINT_URL=nobody))

    assert "set AWS_SECRET_ACCESS_KEY" in wrong_secret.wrong("storage")
    assert "not-the-secret" not in str(wrong_secret)
    assert "create the bucket" in no_bucket.wrong("storage")
    assert "AWS_ENDPOINT_URL" in no_server.wrong("storage")
