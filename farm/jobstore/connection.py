"""Connections to Redis, and what the farm demands of it before it trusts it with jobs."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Mapping
from typing import Any

import hiredis
import redis
import structlog
from redis.backoff import NoBackoff
from redis.retry import Retry

from farm.domain.errors import ConfigurationError, StoreFull, StoreUnavailable

_log = structlog.get_logger(__name__)

#: Seconds. Two tries of these stay under the two seconds after which a caller must have its 503.
CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 0.8
#: The oldest servers that will do.
_LEAST = {"Redis": (7, 0), "Valkey": (7, 2)}


class ThreadConnections(redis.ConnectionPool):
    """A connection for each thread, for as long as the thread lives.

    The library's own pool takes two locks and a look at the socket for every command: a sixth of what a command costs
    here. A connection that broke is found broken when it is used, and the client's one retry mends it.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self._own = threading.local()

    def get_connection(self, *_: Any, **__: Any) -> Any:
        if not hasattr(self._own, "connection"):
            self._own.connection = self.make_connection()
        self._own.connection.connect()
        return self._own.connection

    def release(self, connection: Any) -> None:
        """The thread keeps it."""


class UnixConnection(redis.UnixDomainSocketConnection):
    """The kernel keeps the time limit. Python's own costs one more system call, and a turn of its lock, each way."""

    def _connect(self) -> socket.socket:
        connected: socket.socket = super()._connect()  # type: ignore[no-untyped-call]
        connected.settimeout(None)
        limit = struct.pack("ll", *divmod(round(ANSWER_SECONDS * 1e6), 1_000_000))
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        return connected


class Packer:
    """A command as bytes. The library's own packer first looks at each argument twice: a script is given sixty."""

    def pack(self, *command: Any) -> list[bytes]:
        words = command[0].encode().split()  # such as `SCRIPT LOAD`
        return [hiredis.pack_command((*words, *command[1:]))]


class Client(redis.Redis):
    """The library's client without its telemetry, which costs a tenth of a command even where it is off."""

    def execute_command(self, *command: Any, **options: Any) -> Any:
        connection: Any = self.connection_pool.get_connection()
        try:
            return self._once(connection, *command, **options)
        except (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError):
            connection.disconnect()
            return self._once(connection, *command, **options)

    def _once(self, connection: Any, *command: Any, **options: Any) -> Any:
        connection.send_command(*command)
        return self.parse_response(connection, command[0], **options)  # type: ignore[no-untyped-call]


def connect(url: str) -> redis.Redis:
    """A client for `url` (`redis://…`, `rediss://…`, `unix://…`) that many threads may share. Opens nothing yet.

    One immediate retry mends connections that a restart of Redis broke. Every script is safe to repeat.
    """
    try:
        pool = ThreadConnections.from_url(url, **_options())
    except ValueError:
        # Neither the address nor what the library says of it, which may hold a password or a piece of it.
        raise ConfigurationError(
            "FARM_REDIS_URL is no address of a Redis; allowed: redis://user:password@host:port/0, rediss:// and "
            "unix://, with %2F, %3A and %40 for '/', ':' and '@' in a password"
        ) from None
    if pool.connection_class is redis.UnixDomainSocketConnection:
        pool.connection_class = UnixConnection
        pool.connection_kwargs["socket_timeout"] = None
    return Client(connection_pool=pool)


def connect_to_listen(url: str) -> redis.Redis:
    """A client with the library's own pool: a subscription keeps its connection for itself."""
    return redis.Redis.from_url(url, **_options())


def _options() -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 1),
        "max_connections": 2**31 - 1,  # the library stops at 100; the API has a thread for each call that it holds
        "command_packer": Packer(),
        "protocol": 2,  # a tenth quicker here than 3, of which the farm uses nothing
    }


class translated:  # noqa: N801  # reads as the function that `contextlib` would make of it, at twice the cost
    """Redis's own errors, as the farm's: full memory, a refusal, or no answer."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, _: object) -> None:
        if isinstance(error, redis.exceptions.RedisError):
            raise _as_ours(error) from error


def _as_ours(error: redis.exceptions.RedisError) -> StoreFull | StoreUnavailable:
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return StoreFull()
    if isinstance(error, redis.exceptions.ResponseError):
        # Its words name keys and scripts: they are for the log, and not for callers.
        _log.error("Redis refused a command", error=str(error))
        return StoreUnavailable("The job store (Redis) refused a command; the farm's log has the reason.")
    return StoreUnavailable(detail=str(error))


def broker_url(url: str) -> str:
    """The same server as Celery's transport spells it."""
    return url.replace("unix://", "redis+socket://", 1)


def check(client: redis.Redis, *, unsafe: bool) -> None:
    """Refuse a server that would lose jobs: too old, without an append-only file, or evicting.

    Uses INFO alone, since managed servers forbid CONFIG. `unsafe` lets a server without persistence, or an evicting
    one, pass.
    """
    with translated():
        info: dict[str, Any] = client.info()
    problem = version_problem(info)
    if problem is None and not unsafe:
        problem = persistence_problem(info) or eviction_problem(info)
    if problem:
        raise ConfigurationError(problem)


def name_and_version(info: Mapping[str, Any]) -> tuple[str, str]:
    """What a server says it is: Valkey names the Redis that it follows, too."""
    if "valkey_version" in info:
        return "Valkey", str(info["valkey_version"])
    return "Redis", str(info.get("redis_version", "0"))


def version_problem(info: Mapping[str, Any]) -> str | None:
    name, version = name_and_version(info)
    least = _LEAST[name]
    if tuple(int(part) for part in version.split(".")[:2]) >= least:
        return None
    return f"FARM_REDIS_URL: {name} {version} is too old; the farm needs {name} {least[0]}.{least[1]} or later"


def persistence_problem(info: Mapping[str, Any]) -> str | None:
    if info.get("aof_enabled"):
        return None
    return (
        "FARM_REDIS_URL: this Redis keeps no append-only file, so a restart would lose accepted jobs; "
        "run `CONFIG SET appendonly yes` there (FARM_REDIS_UNSAFE=1 starts all the same)"
    )


def eviction_problem(info: Mapping[str, Any]) -> str | None:
    policy = info.get("maxmemory_policy", "noeviction")
    if policy == "noeviction":
        return None
    return (
        f"FARM_REDIS_URL: this Redis evicts keys ({policy}), so full memory would lose accepted jobs; "
        "run `CONFIG SET maxmemory-policy noeviction` there (FARM_REDIS_UNSAFE=1 starts all the same)"
    )
