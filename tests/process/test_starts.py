"""Start and stop of a farm, and the errors of a start that cannot work."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
import redis
import trustme
import urllib3
from typer.testing import CliRunner

from farm.cli import main, up
from farm.printable import printable
from farm.process.child import EXIT_CONFIG
from farm.process.tls import validity_problem
from farm.weights.checkpoints import LICENCES
from tests.farms import RunningFarm, clean_environment, farm_command, free_port, own_redis, pids, running_farm, wait_for
from tests.tls_server import DATES, Authority, server
from workers.pipelines import miniature

SIMULATED = {"FARM_PIPELINE": "simulated"}
BUCKET = {
    "FARM_STORAGE_URL": "s3://images",
    "AWS_ACCESS_KEY_ID": "abc",
    "AWS_SECRET_ACCESS_KEY": "abc",
    "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
}
TRACES = {"OTEL_EXPORTER_OTLP_ENDPOINT": "http://127.0.0.1:4318"}


class _SilentHandler(BaseHTTPRequestHandler):
    """Answers every call with an error, and prints nothing."""

    def log_message(self, format: str, *_: object) -> None:  # noqa: A002  # the name that it overrides
        """Print nothing."""


@dataclass
class Start:
    """The options and settings of `farm up`; the doctor takes the same."""

    options: list[str] = field(default_factory=list)
    settings: dict[str, str] = field(default_factory=dict)


class Surroundings:
    """The files and servers that a start meets."""

    def __init__(self, folder: Path, servers: ExitStack) -> None:
        self._folder = folder
        self._servers = servers
        self._authority = trustme.CA()

    def tls(self, cert: str | None = None, key: str | None = None, **issued: datetime) -> Start:
        """Return a start with a certificate and its key, or with other contents in their place."""
        pair = self._authority.issue_cert("127.0.0.1", **issued)  # type: ignore[arg-type]
        files = {"cert": cert or pair.cert_chain_pems[0].bytes().decode(), "key": key or self.key_of(pair)}
        for name, content in files.items():
            (self._folder / name).write_text(content)
        return Start(["--tls-cert", str(self._folder / "cert"), "--tls-key", str(self._folder / "key")])

    def key_of(self, pair: trustme.LeafCert) -> str:
        return pair.private_key_pem.bytes().decode()

    def another_key(self) -> str:
        return self.key_of(self._authority.issue_cert("127.0.0.1"))

    def locked_key(self) -> str:
        """Return a private key with a passphrase."""
        command = ["openssl", "genpkey", "-algorithm", "EC", "-pkeyopt", "ec_paramgen_curve:P-256", "-aes256"]
        return subprocess.run([*command, "-pass", "pass:secret"], capture_output=True, text=True, check=True).stdout

    def without(self, name: str) -> Start:
        """Return a start with TLS files of which one is not there."""
        start = self.tls()
        (self._folder / name).unlink()
        return start

    def half(self) -> Start:
        start = self.tls()
        return Start(start.options[:2])

    def redis(self, *options: str, url: str = "{}") -> Start:
        """Return a start with a Redis of one's own, reached at `url`."""
        socket = self._servers.enter_context(own_redis(self._folder / "redis", "--appendonly", "yes", *options))
        return Start(settings={"FARM_REDIS_URL": url.format(socket)})

    def web_server(self) -> Start:
        """Return a start with a web server in the place of Redis."""
        server = self._servers.enter_context(ThreadingHTTPServer(("127.0.0.1", 0), _SilentHandler))
        self._servers.callback(server.shutdown)
        Thread(target=server.serve_forever, daemon=True).start()
        return at(f"redis://127.0.0.1:{server.server_port}")

    def folder(self, name: str) -> Start:
        return Start(["--data-dir", str(self._folder / name)])

    def file_as_folder(self, *inside: str) -> Start:
        (self._folder / "file").touch()
        return self.folder("/".join(["file", *inside]))

    def occupied(self, name: str) -> Start:
        """Return a start on a data folder with a file in the place of one of its folders."""
        (self._folder / "occupied").mkdir()
        (self._folder / "occupied" / name).touch()
        return self.folder("occupied")

    def expired_redis(self) -> Start:
        """Return a start with a Redis, over TLS, whose certificate has expired."""
        authority = Authority(self._folder)
        tls = authority.context("localhost", **DATES["has expired"])
        port = self._servers.enter_context(server(lambda _: None, tls))
        return at(f"rediss://localhost:{port}/0?ssl_ca_certs={authority.file}")

    def user(self, rules: str) -> Start:
        """Return a start with a Redis that gives the farm's user these rights."""
        start = self.redis()
        with redis.Redis.from_url(start.settings["FARM_REDIS_URL"]) as client:
            wait_for(lambda: is_listening(client), what="the Redis")
            client.execute_command("ACL", "SETUSER", "farm", "on", "nopass", *rules.split())
        return Start(settings={"FARM_REDIS_URL": start.settings["FARM_REDIS_URL"] + "?username=farm&password=secret"})

    def weights(self, **settings: str) -> Start:
        """Return a start with real weights: Kontext in small, or those of the settings."""
        files = {} if "FARM_SRPO_FILE" in settings else {"FARM_KONTEXT_DIR": str(miniature.HOME)}
        accepted = {"FARM_SAFETY": "off", "FARM_ACCEPT_LICENSES": ",".join(LICENCES)}
        return Start(settings={"FARM_PIPELINE": "flux"} | files | accepted | settings)

    def large_weights(self) -> Start:
        """Return a start with a transformer of four terabytes, which takes none of the disk."""
        folder = self._folder / "FLUX.1-Kontext-dev"
        shutil.copytree(miniature.HOME, folder)
        size = 4 * 10**12
        header = json.dumps({"x_embedder.weight": {"dtype": "F32", "shape": [size // 4], "data_offsets": [0, size]}})
        with (folder / "transformer/diffusion_pytorch_model.safetensors").open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header.encode())
            file.truncate(8 + len(header) + size)
        return self.weights(FARM_KONTEXT_DIR=str(folder))


def at(url: str) -> Start:
    """Return a start with this FARM_REDIS_URL."""
    return Start(settings={"FARM_REDIS_URL": url})


@pytest.fixture
def surroundings(tmp_path: Path) -> Iterator[Surroundings]:
    with ExitStack() as servers:
        yield Surroundings(tmp_path, servers)


#: Starts that cannot work, the doctor's check that says so, and a word of the problem and of its remedy.
UNUSABLE: dict[str, tuple[Callable[[Surroundings], Start], str, str]] = {
    "the key of another certificate": (lambda s: s.tls(key=s.another_key()), "TLS", "is not the key of"),
    "no certificate": (lambda s: s.without("cert"), "TLS", "cannot be read"),
    "no key": (lambda s: s.without("key"), "TLS", "cannot be read"),
    "only a certificate": (lambda s: s.half(), "TLS", "needs both"),
    "no PEM certificate": (lambda s: s.tls(cert="nothing"), "TLS", "holds no certificate"),
    "no PEM key": (lambda s: s.tls(key="nothing"), "TLS", "holds no private key"),
    "a key with a passphrase": (lambda s: s.tls(key=s.locked_key()), "TLS", "has a passphrase"),
    "a replica": (lambda s: s.redis("--replicaof", "127.0.0.1 1"), "Redis", "is a replica"),
    "a cluster": (lambda s: s.redis("--cluster-enabled", "yes"), "Redis", "runs in cluster mode"),
    "a password that is missing": (lambda s: s.redis("--requirepass", "secret"), "Redis", "refuses this user"),
    "another password": (
        lambda s: s.redis("--requirepass", "secret", url="{}?password=other"),
        "Redis",
        "refuses this user",
    ),
    "no persistence": (lambda s: s.redis("--appendonly", "no"), "persistence", "no append-only file"),
    "Sentinels": (lambda _: at("sentinel://:secret@a:26379,b:26379/0"), "Redis", "such as HAProxy"),
    "several hosts": (lambda _: at("redis://:secret@a:1,b:2/0"), "Redis", "such as HAProxy"),
    "an unknown parameter": (lambda _: at("redis://:secret@a/0?socket_timeout=5"), "Redis", "allowed: db, username"),
    "an unknown database": (lambda s: s.redis(url="{}?db=99"), "Redis", "no database of this number"),
    "a database that is no number": (lambda _: at("redis://:secret@a/zero"), "Redis", "is not a number"),
    "an unknown value for TLS": (lambda _: at("rediss://a?ssl_cert_reqs=CERT_SOME"), "Redis", "required, optional or"),
    "no file of authorities": (lambda _: at("rediss://a?ssl_ca_certs=/none"), "Redis", "No such file"),
    "no certificate for Redis": (lambda _: at("rediss://a?ssl_certfile=/none"), "Redis", "No such file"),
    "TLS without TLS": (lambda _: at("redis://a?ssl_cert_reqs=none"), "Redis", "write rediss://"),
    "a web server in place of Redis": (lambda s: s.web_server(), "Redis", "is no Redis; correct the host"),
    "no right to INFO": (lambda s: s.user("~* &* +@all -info"), "Redis", "'info' command"),
    "no right to scripts": (lambda s: s.user("~* &* +@all -eval"), "rights", "'eval' command"),
    "no right to a command": (lambda s: s.user("~* &* +@all -xadd"), "rights", "needs (+xadd);"),
    "no right to the keys": (lambda s: s.user("~other:* &* +@all"), "rights", "needs (~srpo:*);"),
    "no right to the channels": (
        lambda s: s.user("~* resetchannels +@all"),
        "rights",
        "(&srpo:* +publish +subscribe &",
    ),
    "no right to Celery's channel": (
        lambda s: s.user("~* resetchannels &srpo:* +@all"),
        "rights",
        "(&srpo:celery:/0.celery.pidbox +psubscribe)",
    ),
    "eviction": (lambda s: s.redis("--maxmemory-policy", "allkeys-lru"), "eviction", "evicts keys"),
    "half of the weights": (
        lambda s: s.weights(FARM_SRPO_FILE="/none"),
        "weights",
        "FARM_SRPO_FILE needs FARM_FLUX_DIR",
    ),
    "a licence that is not accepted": (lambda s: s.weights(FARM_ACCEPT_LICENSES=""), "licences", "does not name"),
    "weights that do not fit": (lambda s: s.large_weights(), "model memory", "These weights need 4,0"),
    "an unknown setting": (
        lambda _: Start(settings={"FARM_LEASE_SECOND": "3"}),
        "settings",
        "is not a setting",
    ),
    "a file in place of the data folder": (lambda s: s.file_as_folder(), "farm", "is not a folder"),
    "a file in the path of the data folder": (lambda s: s.file_as_folder("inside"), "farm", "is not a folder"),
    "a data folder that is not UTF-8": (lambda s: s.folder("\udc80"), "farm", "its name is not UTF-8"),
    "no host": (lambda _: Start(["--host", "no host"]), "port", "Name or service not known"),
    "a host of too long a name": (lambda _: Start(["--host", "a" * 300]), "port", "Name or service not known"),
    "a host that cannot be encoded": (lambda _: Start(["--host", "\x9b"]), "port", "Name or service not known"),
    "an empty host": (lambda _: Start(["--host", ""]), "port", "no host was named"),
    "a file in place of Redis's folder": (lambda s: s.occupied("redis"), "persistence", "is not a folder, and Redis"),
    "a Redis whose certificate has expired": (lambda s: s.expired_redis(), "Redis", "of Redis has expired; renew it"),
    "no network": (lambda _: Start(settings={"FARM_WEBHOOK_ALLOW": "[x"}), "settings", "networks such as"),
    "no signing key": (
        lambda _: Start(settings={"FARM_SIGNING_KEY": "secret"}),
        "settings",
        "openssl rand",
    ),
    "a line break in an AWS key": (
        lambda _: Start(settings={**BUCKET, "AWS_ACCESS_KEY_ID": "abc\n"}),
        "storage",
        "the access key id that boto3 found has a space",
    ),
    "an endpoint that is no address": (
        lambda _: Start(settings={**BUCKET, "AWS_ENDPOINT_URL": "http://127.0.0.1:9 "}),
        "storage",
        "was not a valid URI",
    ),
    "no host for metrics": (
        lambda _: Start(settings={"FARM_METRICS_PORT": "9100", "FARM_METRICS_HOST": "no host"}),
        "settings",
        "is not an address of this machine",
    ),
    "metrics at the address of another machine": (
        lambda _: Start(settings={"FARM_METRICS_PORT": "9100", "FARM_METRICS_HOST": "192.0.2.1"}),
        "settings",
        "FARM_METRICS_HOST=192.0.2.1 is not an address of this machine",
    ),
    "no address for traces": (
        lambda _: Start(settings={"OTEL_EXPORTER_OTLP_ENDPOINT": "collector:4318"}),
        "settings",
        "=collector:4318 is not valid",
    ),
    "traces over gRPC": (
        lambda _: Start(settings={**TRACES, "OTEL_EXPORTER_OTLP_PROTOCOL": "grpc"}),
        "settings",
        "allowed: http/protobuf",
    ),
    "an invalid value": (lambda _: Start(settings={"FARM_LOG": "xml"}), "settings", "is not valid"),
}


@pytest.mark.parametrize("name", UNUSABLE)
def test_a_start_that_cannot_work_ends_in_one_line_that_the_doctor_says_too(
    surroundings: Surroundings,
    tmp_path: Path,
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    make, check, words = UNUSABLE[name]
    start = make(surroundings)
    folder = ["--data-dir", str(tmp_path / "data"), "--port", str(free_port())]
    for setting, value in (SIMULATED | start.settings).items():
        monkeypatch.setenv(setting, value)
    monkeypatch.setattr(up, "set_up_log", lambda *_, **__: None)
    monkeypatch.setattr(sys, "argv", ["farm", "up", *folder, *start.options])

    with pytest.raises(SystemExit) as ended:
        main.main()

    printed = capsys.readouterr().err
    assert ended.value.code == EXIT_CONFIG
    assert printed.count("\n") == 1
    assert words in printed
    assert "secret" not in printed
    done = CliRunner().invoke(main.app, ["doctor", "--json", *folder, *start.options])
    assert done.exit_code == 1
    finding, *others = [found for found in json.loads(done.stdout)["findings"] if found["mark"] == "wrong"]
    assert finding["name"] == check
    assert {other["name"] for other in others} <= ({"storage"} if check == "farm" else set())
    assert printed == printable(f"farm: {finding['text']}; {finding['remedy']}") + "\n"


@pytest.mark.parametrize("program", [["api"], ["worker"], ["worker", "--webhooks"]])
def test_each_process_alone_refuses_such_a_start_too(surroundings: Surroundings, program: list[str]) -> None:
    start = surroundings.redis("--cluster-enabled", "yes")

    done = farm_command(*program, environment=SIMULATED | start.settings)

    assert (done.returncode, done.stderr.count("\n")) == (EXIT_CONFIG, 1)
    assert "runs in cluster mode" in done.stderr


def test_a_setting_that_a_worker_refuses_ends_the_farm_in_one_line(tmp_path: Path) -> None:
    folder = ["--data-dir", str(tmp_path / "data"), "--port", str(free_port())]

    done = farm_command("up", *folder, environment={"FARM_DEVICE": "cuda:99", "FARM_LOG": "json"})

    reported = [line for line in done.stderr.splitlines() if not line.startswith(("{", "worker "))]
    assert done.returncode == EXIT_CONFIG
    assert len(reported) == 1
    assert reported[0].startswith('farm worker: FARM_DEVICE="cuda:99" is not there')


def test_an_expired_certificate_is_a_note(surroundings: Surroundings, tmp_path: Path) -> None:
    """Clients refuse it, or do not look: that is for them to say."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    start = surroundings.tls(not_before=yesterday - timedelta(days=1), not_after=yesterday)

    done = CliRunner().invoke(
        main.app, ["doctor", "--json", "--data-dir", str(tmp_path / "data"), *start.options], env=SIMULATED
    )

    (finding,) = [found for found in json.loads(done.stdout)["findings"] if found["name"] == "TLS"]
    assert (finding["mark"], f"expired on {yesterday:%Y-%m-%d}" in finding["text"]) == ("note", True)


def test_a_chain_with_an_expired_authority_is_a_note(tmp_path: Path) -> None:
    """Clients refuse the whole chain, however long the server's own certificate is valid."""
    yesterday = datetime.now(UTC) - timedelta(days=1)
    root, old = trustme.CA(), trustme.CA(organization_name="old")
    chain, key = tmp_path / "chain", tmp_path / "key"
    issued = root.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(key)
    expired = old.issue_cert("old.example", not_before=yesterday - timedelta(days=1), not_after=yesterday)
    for blob in (issued.cert_chain_pems[0], expired.cert_chain_pems[0]):
        blob.write_to_path(chain, append=True)

    problem = validity_problem(chain)

    assert problem is not None
    assert f"in {chain} expired on {yesterday:%Y-%m-%d}" in problem


def test_a_farm_runs_no_module_of_the_folder_that_it_is_started_in(tmp_path: Path) -> None:
    project = tmp_path / "project"
    project.mkdir()
    for name in ("api", "workers", "farm", "redis", "json"):
        (project / f"{name}.py").write_text("raise SystemExit('This is the module of another project.')")
    farm = RunningFarm(tmp_path / "data", folder=project)

    farm.start()

    assert farm.wait_for_end(farm.submit(num_inference_steps=1))["status"] == "completed"
    assert farm.stop() == 0


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


def is_listening(client: redis.Redis) -> bool:
    """Return True once a server that has just been started answers; its socket is there a little earlier."""
    try:
        return bool(client.ping())
    except redis.exceptions.ConnectionError:
        return False


def answers(port: int) -> bool:
    try:
        return urllib3.request("GET", f"http://127.0.0.1:{port}/readyz", retries=False, timeout=2).status == 200
    except urllib3.exceptions.HTTPError:
        return False
