"""The farm's requirements on a Redis."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from pathlib import Path

import pytest
import redis

from farm.bootstrap import build
from farm.celery import application
from farm.domain.errors import ConfigurationError, StoreUnavailable
from farm.jobstore import notifications
from farm.jobstore.connection import broker_url, check, connect, connect_to_listen, translated
from farm.jobstore.notifications import Listener
from farm.process import embedded_redis
from farm.process.embedded_redis import EmbeddedRedis
from farm.settings import Settings, load
from tests.farms import own_redis, wait_for
from tests.fault_proxies import Wire


@pytest.fixture
def configure(client: redis.Redis) -> Iterator[Callable[[str, str], None]]:
    """Change a setting of the server until the end of the test."""
    before: dict[str, str] = {}

    def change(name: str, value: str) -> None:
        before[name] = str(client.config_get(name)[name])
        client.config_set(name, value)

    yield change
    for name, value in before.items():
        client.config_set(name, value)


@pytest.mark.parametrize("name", ["a b", "a#b", "a?b=c", "a%41", "é狐", "a\nb"])
def test_an_embedded_server_is_reached_whatever_its_folder_is_called(tmp_path: Path, name: str) -> None:
    server = EmbeddedRedis(tmp_path / name)
    server.start()
    try:
        assert connect(server.url).set("fox", "red")
        assert embedded_redis.address(tmp_path / name) == server.url
        assert (tmp_path / name / "redis" / "appendonlydir").is_dir()
    finally:
        server.stop()


def test_the_embedded_server_is_good_enough(client: redis.Redis) -> None:
    check(client, unsafe=False)


@pytest.mark.parametrize(
    ("name", "value", "result"),
    [
        ("appendonly", "no", "CONFIG SET appendonly yes"),
        ("maxmemory-policy", "allkeys-lru", "CONFIG SET maxmemory-policy noeviction"),
        ("maxmemory-policy", "volatile-ttl", "volatile-ttl"),
    ],
)
def test_a_server_that_would_lose_jobs_is_refused_with_its_cure(
    client: redis.Redis, configure: Callable[[str, str], None], name: str, value: str, result: str
) -> None:
    configure(name, value)

    with pytest.raises(ConfigurationError, match=result):
        check(client, unsafe=False)
    check(client, unsafe=True)


class OldServer:
    """Stands for a server that is too old to be installed here: it answers INFO, and refuses no command."""

    def __init__(self, **info: object) -> None:
        self._info = {"aof_enabled": 1, "maxmemory_policy": "noeviction"} | info

    def info(self) -> dict[str, object]:
        return self._info

    def eval(self, *_: object) -> list[int]:
        """Refuse no command."""
        return []

    @property
    def connection_pool(self) -> redis.ConnectionPool:
        return redis.ConnectionPool()


@pytest.mark.parametrize("info", [{"redis_version": "6.2.14"}, {"redis_version": "7.2.4", "valkey_version": "7.1.9"}])
def test_a_server_that_is_too_old_is_refused_even_if_unsafe_ones_are_allowed(info: dict[str, object]) -> None:
    for unsafe in (False, True):
        with pytest.raises(ConfigurationError, match="too old"):
            check(OldServer(**info), unsafe=unsafe)  # type: ignore[arg-type]


@pytest.mark.parametrize("info", [{"redis_version": "7.0.0"}, {"redis_version": "7.2.4", "valkey_version": "7.2.0"}])
def test_the_oldest_that_the_contract_names_will_do(info: dict[str, object]) -> None:
    check(OldServer(**info), unsafe=False)  # type: ignore[arg-type]


def test_an_absent_server_raises_store_unavailable(tmp_path: Path) -> None:
    with pytest.raises(StoreUnavailable):
        check(connect(f"unix://{tmp_path}/socket"), unsafe=False)


def test_the_reason_for_a_command_that_redis_refuses_is_only_logged(
    client: redis.Redis, capsys: pytest.CaptureFixture[str]
) -> None:
    client.set("srpo:secret-name", "text")

    with pytest.raises(StoreUnavailable) as refused, translated():
        client.eval("return redis.call('LPUSH', 'srpo:secret-name', 1)", 0)

    assert "refused" in str(refused.value)
    assert "WRONGTYPE" not in str(refused.value)
    assert "WRONGTYPE" in "".join(capsys.readouterr())


@pytest.mark.parametrize(
    "url",
    [
        *("localhost:6379", "http://localhost:6379", "redis://localhost:port", "redis://host/zero"),
        *(
            "redis://host:0/0",
            "redis://a..b/0",
            f"redis://{'a' * 64}/0",
            "redis://host/99999999999",
            "unix://tmp/socket",
        ),
    ],
)
def test_an_invalid_address_of_redis_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, url: str
) -> None:
    monkeypatch.setenv("FARM_REDIS_URL", url)

    with pytest.raises(ConfigurationError, match=r"^FARM_REDIS_URL[^\n]*$"):
        build(load(), tmp_path)


def test_an_error_without_redis_names_farm_up(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=f"farm up --data-dir {tmp_path}"):
        build(Settings(), tmp_path)


@pytest.mark.parametrize(
    ("url", "broker"),
    [
        ("unix:///a/redis.sock", "redis+socket:///a/redis.sock"),
        ("redis://u:p@host:6380/1", "redis://u:p@host:6380/1"),
        ("redis://host", "redis://host/0"),
        ("redis://host?db=2&username=u&password=p%40", "redis://u:p%40@host/2"),
        ("unix:///a/redis.sock?password=p%2F&db=2", "redis+socket://:p%2F@/a/redis.sock?virtual_host=2"),
        ("rediss://[::1]:6380/1", "rediss://[::1]:6380/1?ssl_cert_reqs=required"),
        ("rediss://host?ssl_cert_reqs=CERT_NONE", "rediss://host/0?ssl_cert_reqs=none"),
    ],
)
def test_celery_is_given_the_same_server(url: str, broker: str) -> None:
    assert broker_url(url) == broker


def set_rules(client: redis.Redis, rules: str) -> None:
    """Give the user `farm` these ACL rules, and no others."""
    command = ["ACL", "SETUSER", "farm", "reset", "on", ">secret", *rules.split()]
    client.execute_command(*command)  # type: ignore[no-untyped-call]


@pytest.mark.parametrize("database", [0, 3])
@pytest.mark.parametrize("rules", ["~srpo:* &srpo:* +@all", "~srpo:* +@all -info", "%R~srpo:* &* +@all"])
def test_the_rights_that_are_advised_are_enough(redis_url: str, client: redis.Redis, database: int, rules: str) -> None:
    set_rules(client, rules)
    try:
        limited = connect(f"unix://farm:secret@{redis_url.removeprefix('unix://')}?db={database}")
        with pytest.raises(ConfigurationError, match="rights that it needs") as refused:
            check(limited, unsafe=True)
        advised = str(refused.value).partition("on >password ")[2].partition("`")[0]
        set_rules(client, advised)
        check(limited, unsafe=True)
    finally:
        client.acl_deluser("farm")


def test_celery_is_given_no_other_server(monkeypatch: pytest.MonkeyPatch) -> None:
    """Celery takes its own variables, which may be another program's, before what it is told."""
    for name in ("CELERY_BROKER_URL", "CELERY_BROKER_READ_URL", "CELERY_BROKER_WRITE_URL", "CELERY_RESULT_BACKEND"):
        monkeypatch.setenv(name, "redis://another:1/0")
    monkeypatch.setenv("CELERY_LOADER", "tests.no_loader.Loader")

    app = application("redis://host:6380/1")

    assert {app.conf.broker_url, app.conf.broker_read_url, app.conf.broker_write_url} == {"redis://host:6380/1"}
    assert (app.conf.result_backend, app.loader.__module__) == (None, "celery.loaders.app")


def test_many_threads_may_ask_at_once(client: redis.Redis) -> None:
    """More than the hundred connections at which the library would stop."""
    everybody = threading.Barrier(150)

    def ask(_: int) -> bool:
        everybody.wait(20)
        return bool(client.ping())

    with ThreadPoolExecutor(150) as pool:
        assert all(pool.map(ask, range(150)))


def test_a_server_that_became_a_replica_is_left_for_the_primary(tmp_path: Path) -> None:
    """By a failover behind a proxy that keeps the connections to the old primary."""
    with own_redis(tmp_path / "old") as old, own_redis(tmp_path / "new") as new:
        proxy = Wire(Path(old.removeprefix("unix://")))
        proxy.open()
        client = connect(f"redis://127.0.0.1:{proxy.port}/0")
        client.set("fox", "red")
        with closing(redis.Redis.from_url(old)) as admin:
            admin.replicaof("127.0.0.1", "1")
        proxy.lead_to(Path(new.removeprefix("unix://")))

        assert client.set("fox", "white")

        with closing(redis.Redis.from_url(new, decode_responses=True)) as admin:
            assert admin.get("fox") == "white"
        proxy.close()


def test_a_listener_reconnects_when_its_connection_died_silently(
    redis_url: str, client: redis.Redis, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(notifications, "_PING_SECONDS", 0.2)
    wire = Wire(Path(redis_url.removeprefix("unix://")))
    wire.open()
    heard: list[str] = []
    listener = Listener(connect_to_listen(f"redis://127.0.0.1:{wire.port}"), lambda _channel, text: heard.append(text))
    listener.subscribe("channel")
    listener.start()

    def is_heard(word: str) -> bool:
        client.publish("channel", word)
        return word in heard

    wait_for(lambda: is_heard("before"))
    wire.die()
    wait_for(lambda: is_heard("after"))
    listener.unsubscribe("channel")
    wire.close()
