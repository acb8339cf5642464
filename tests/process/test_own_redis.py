"""Redis as people run it: TLS with client certificates, a user with the documented rights only, and a Sentinel."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import openai
import pytest
import redis
import trustme
from redis.sentinel import MasterNotFoundError, Sentinel

from api.server import THREADS
from farm.jobstore.connection import API_CONNECTIONS, WEBHOOK_WORKER_CONNECTIONS, WORKER_CONNECTIONS
from farm.process import child
from farm.process.child import EXIT_CONFIG
from tests.debian_redis import debian_redis
from tests.docs_snippets import executed_by
from tests.farms import Answer, RunningFarm, farm_command, free_port, pids, running_farm, wait_for
from tests.fault_proxies import FaultyWay
from tests.webhook_receiver import running_receiver

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

PASSWORD = "p@ss/w:rd"
SIMULATED = {"FARM_PIPELINE": "simulated", "FARM_SIMULATED_STEP_MS": "5", "FARM_WEBHOOK_ALLOW": "127.0.0.1"}
CALLS = 40
#: Connections of the API that are for no call: the test's own submits, and what happens each second.
OTHER_CONNECTIONS = 5


@pytest.fixture(scope="module")
def program(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with debian_redis(tmp_path_factory.mktemp("debian")) as found:
        yield found


@contextmanager
def running(folder: Path, *command: str, port: int) -> Iterator[subprocess.Popen[bytes]]:
    """Yield a server that listens on a port of loopback."""
    folder.mkdir()
    with (folder / "log").open("wb") as log:
        server = subprocess.Popen(child.command(*command), cwd=folder, stdout=log)
    try:
        wait_for(lambda: listens(port), what=f"the server at {port}")
        yield server
    finally:
        server.kill()
        server.wait()


def listens(port: int) -> bool:
    with suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


def documented_rights() -> list[str]:
    """Return the ACL rules of the docs: keys, channels, and the shortest list of commands."""
    user, commands = executed_by("test_a_farm_needs_no_more_than_the_documented_rights")
    return [rule for rule in user.code.split() if rule[0] in "~&"] + commands.code.split()


# TLS, and a user with only the documented rights


@dataclass(frozen=True)
class TlsServer:
    """A Redis that takes only clients with a certificate. `admin` may do everything there; `url` is for a farm."""

    url: str
    port: int
    admin: redis.Redis


@pytest.fixture(scope="module")
def tls_server(program: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[TlsServer]:
    folder, port = tmp_path_factory.mktemp("tls"), free_port()
    authority, certificate = files_of_tls(folder)
    options = ["--port", "0", "--tls-port", str(port), "--tls-auth-clients", "yes", "--appendonly", "yes"]
    for name, path in (("cert", certificate), ("key", certificate), ("ca-cert", authority)):
        options += [f"--tls-{name}-file", str(path)]
    files = f"ssl_ca_certs={authority}&ssl_certfile={certificate}&ssl_keyfile={certificate}"
    with running(folder / "server", program, *options, port=port):
        admin = redis.Redis.from_url(f"rediss://localhost:{port}/0?{files}", decode_responses=True)
        with closing(admin):
            rules = ("on", f">{PASSWORD}", *documented_rights())
            admin.execute_command("ACL", "SETUSER", "farm", *rules)  # type: ignore[no-untyped-call]
            yield TlsServer(f"rediss://farm:{quote(PASSWORD, safe='')}@localhost:{port}/0?{files}", port, admin)


def files_of_tls(folder: Path) -> tuple[Path, Path]:
    """Return the files of a new authority, and of a certificate with its key."""
    authority, certificate = folder / "authority.pem", folder / "certificate.pem"
    ca = trustme.CA()
    ca.cert_pem.write_to_path(authority)
    ca.issue_cert("localhost").private_key_and_cert_chain_pem.write_to_path(certificate)
    return authority, certificate


@pytest.fixture(scope="module")
def tls_farm(tls_server: TlsServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    settings = SIMULATED | {"FARM_REDIS_URL": tls_server.url}
    with running_farm(tmp_path_factory.mktemp("farm") / "data", 2, None, **settings) as farm:
        yield farm


def test_a_farm_needs_no_more_than_the_documented_rights(tls_server: TlsServer, tls_farm: RunningFarm) -> None:
    """Jobs, webhooks and a bulk: Redis has refused no command."""
    tls_server.admin.acl_log_reset()  # the doctor asks for more, and does without

    with running_receiver() as receiver:
        job_ids = {tls_farm.submit(webhook_url=receiver.url, webhook_events=["job.completed"]) for _ in range(10)}
        batch = ended_batch(tls_farm, lines=6)
        wait_for(lambda: len(receiver.received) == len(job_ids), what="the webhooks")

    assert {tls_farm.wait_for_end(job_id)["status"] for job_id in job_ids} == {"completed"}
    assert (batch.status, batch.request_counts.completed) == ("completed", 6)
    refused = {entry["object"] for entry in tls_server.admin.acl_log()}
    assert refused - {"client|setinfo"} == set()


def ended_batch(farm: RunningFarm, *, lines: int) -> Any:
    body = {"model": "srpo", "prompt": "a fox", "size": "256x256", "response_format": "url"}
    line = {"method": "POST", "url": "/v1/images/generations", "body": body}
    content = "\n".join(json.dumps(line | {"custom_id": str(number)}) for number in range(lines)).encode()
    with closing(openai.OpenAI(base_url=f"{farm.url}/v1", api_key="any")) as client:
        file = client.files.create(file=("lines.jsonl", content), purpose="batch")
        batch = client.batches.create(input_file_id=file.id, endpoint="/v1/images/generations", completion_window="24h")
        wait_for(lambda: client.batches.retrieve(batch.id).status == "completed", seconds=60, what="the batch's end")
        return client.batches.retrieve(batch.id)


def test_the_doctor_finds_nothing_wrong_with_it(tls_server: TlsServer, tls_farm: RunningFarm) -> None:
    words = ("doctor", "--json", "--data-dir", str(tls_farm.data_dir), "--port", str(tls_farm.port))
    done = farm_command(*words, environment=SIMULATED | {"FARM_REDIS_URL": tls_server.url})

    findings = json.loads(done.stdout)["findings"]
    assert [found for found in findings if found["mark"] == "wrong"] == []
    assert {"Redis", "rights", "persistence", "connections"} <= {found["name"] for found in findings}


def test_an_untrusted_certificate_of_redis_is_reported(tls_server: TlsServer) -> None:
    done = farm_command("doctor", "--json", environment=SIMULATED | {"FARM_REDIS_URL": tls_server.url.split("?")[0]})

    (found,) = [each for each in json.loads(done.stdout)["findings"] if each["name"] == "Redis"]
    assert found["mark"] == "wrong"
    assert "the certificate of Redis is not trusted" in found["text"]
    assert PASSWORD not in done.stdout


def test_each_process_has_at_most_its_documented_connections(tls_server: TlsServer, tls_farm: RunningFarm) -> None:
    """While calls wait for their images and deliveries hang."""
    at_rest = connections(tls_farm, tls_server.port)["api"]
    with running_receiver() as receiver, ThreadPoolExecutor(CALLS) as pool:
        receiver.behave = receiver.hang
        for _ in range(20):  # eight attempts at a time: all have one receiver
            tls_farm.submit(webhook_url=receiver.url, webhook_events=["job.created"], num_inference_steps=20)
        calls = [pool.submit(direct_call, tls_farm) for _ in range(CALLS)]
        wait_for(lambda: connections(tls_farm, tls_server.port)["api"] >= CALLS / 2, what="connections of calls")
        found = connections(tls_farm, tls_server.port)
        assert {call.result().status for call in calls} == {200}

    assert found["api"] <= at_rest + CALLS + OTHER_CONNECTIONS
    assert at_rest + THREADS <= API_CONNECTIONS
    assert 8 <= found["workers.background"] <= WEBHOOK_WORKER_CONNECTIONS
    assert 2 <= found["workers"] <= WORKER_CONNECTIONS


def direct_call(farm: RunningFarm) -> Answer:
    """Return the answer to a call that waits for its image."""
    body = {"model": "srpo", "prompt": "a fox", "size": "256x256", "response_format": "url"}
    return farm.call("POST", "/v1/images/generations", body)


def connections(farm: RunningFarm, port: int) -> dict[str, int]:
    """Return how many connections to a Redis the processes of a farm have; of several of a kind, the most."""
    sockets = sockets_to(port)
    return {
        module: max((sum(file in sockets for file in files_of(pid)) for pid in processes), default=0)
        for module in ("api", "workers", "workers.background")
        if (processes := [pid for pid in pids(f"-m {module} ") if is_of(pid, farm.data_dir)])
    }


def is_of(pid: int, data_dir: Path) -> bool:
    with suppress(OSError):
        return str(data_dir).encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
    return False


def sockets_to(port: int) -> set[str]:
    """Return the sockets that are connected to a port, as links of open files name them."""
    rows = [row.split() for path in ("tcp", "tcp6") for row in Path(f"/proc/net/{path}").read_text().splitlines()[1:]]
    return {f"socket:[{row[9]}]" for row in rows if row[2].endswith(f":{port:04X}") and row[3] == "01"}


def files_of(pid: int) -> Iterator[str]:
    with suppress(OSError):
        for link in Path(f"/proc/{pid}/fd").iterdir():
            with suppress(OSError):
                yield str(link.readlink())


# Sentinel


@dataclass
class Watched:
    """A primary with a replica, and the Sentinel that watches them."""

    port: int
    sentinel: Sentinel
    servers: dict[int, subprocess.Popen[bytes]]

    def primary(self) -> int:
        """Return the port of the present primary; 0 while none is known."""
        with suppress(MasterNotFoundError, redis.exceptions.RedisError):
            return int(self.sentinel.discover_master("farm")[1])  # type: ignore[no-untyped-call]
        return 0


class ProxyOfPrimary(FaultyWay):
    """Stands for HAProxy: each new connection goes to the present primary."""

    def __init__(self, watched: Watched) -> None:
        super().__init__(0)
        self._watched = watched

    async def _connect(self, client: asyncio.StreamReader, back: asyncio.StreamWriter) -> None:
        self._to_port = await asyncio.to_thread(self._watched.primary)
        await super()._connect(client, back)


@pytest.fixture
def watched(program: str, tmp_path: Path) -> Iterator[Watched]:
    primary, replica, port = free_port(), free_port(), free_port()
    with ExitStack() as stack:
        servers = {}
        for own, *role in ((primary,), (replica, "--replicaof", "127.0.0.1", str(primary))):
            options = ["--port", str(own), "--bind", "127.0.0.1", "--appendonly", "yes", *map(str, role)]
            servers[own] = stack.enter_context(running(tmp_path / str(own), program, *options, port=own))
        config = tmp_path / "sentinel.conf"
        config.write_text(
            f"port {port}\nbind 127.0.0.1\nsentinel monitor farm 127.0.0.1 {primary} 1\n"
            "sentinel down-after-milliseconds farm 1000\nsentinel failover-timeout farm 10000\n"
        )
        stack.enter_context(running(tmp_path / "sentinel", program, str(config), "--sentinel", port=port))
        sentinel = Sentinel([("127.0.0.1", port)], socket_timeout=1)  # type: ignore[no-untyped-call]
        wait_for(
            lambda: sentinel.discover_slaves("farm"),  # type: ignore[no-untyped-call]
            what="the replica, known to the Sentinel",
        )
        yield Watched(port, sentinel, servers)


def test_a_sentinels_own_address_is_refused_with_the_way_out(watched: Watched, tmp_path: Path) -> None:
    settings = SIMULATED | {"FARM_REDIS_URL": f"redis://127.0.0.1:{watched.port}/0"}
    folder = ("--data-dir", str(tmp_path / "data"), "--port", str(free_port()))

    up = farm_command("up", *folder, environment=settings)
    doctor = farm_command("doctor", "--json", *folder, environment=settings)

    assert (up.returncode, up.stderr.count("\n")) == (EXIT_CONFIG, 1)
    assert "this is a Sentinel, which holds no data; set it to the address of the primary" in up.stderr
    (found,) = [each for each in json.loads(doctor.stdout)["findings"] if each["name"] == "Redis"]
    assert up.stderr == f"farm: {found['text']}; {found['remedy']}\n"


def test_a_failover_behind_a_proxy_loses_no_job_that_the_replica_has(watched: Watched, tmp_path: Path) -> None:
    """The primary is killed, and the Sentinel makes its replica the primary."""
    proxy = ProxyOfPrimary(watched)
    proxy.open()
    settings = SIMULATED | {"FARM_REDIS_URL": f"redis://127.0.0.1:{proxy.port}/0", "FARM_SIMULATED_STEP_MS": "50"}
    try:
        with running_farm(tmp_path / "data", 2, None, **settings) as farm:
            first = watched.primary()
            job_ids = [farm.submit(num_inference_steps=10) for _ in range(20)]
            with closing(redis.Redis(port=first)) as client:
                client.set("other", 1)  # `wait` is about what its own connection wrote, and all before it
                client.wait(1, 10_000)
            watched.servers[first].kill()
            wait_for(lambda: watched.primary() not in (0, first), seconds=60, what="the failover")

            assert {farm.wait_for_end(job_id)["status"] for job_id in job_ids} == {"completed"}
            assert farm.wait_for_end(submitted(farm))["status"] == "completed"
    finally:
        proxy.close()


def submitted(farm: RunningFarm) -> str:
    """Submit a job, as soon as the farm accepts one again."""
    body = {"model": "srpo", "prompt": "a fox", "num_inference_steps": 2}
    answer = wait_for(
        lambda: found if (found := farm.call("POST", "/farm/v1/jobs", body)).status == 202 else None, what="a 202"
    )
    assert answer is not None
    return str(answer.json["id"])
