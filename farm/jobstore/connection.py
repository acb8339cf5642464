"""Connections to Redis, and the farm's requirements on the server."""

from __future__ import annotations

import threading
from collections.abc import Mapping
from typing import Any

import redis
import structlog
from hiredis import pack_command
from redis.backoff import NoBackoff
from redis.retry import Retry

from farm import clock
from farm.domain.errors import ConfigurationError, StoreFull, StoreUnavailable
from farm.jobstore.access_rights import celery_channel, missing_rights
from farm.jobstore.redis_url import RedisUrl
from farm.tls_errors import certificate_problem

_log = structlog.get_logger(__name__)

#: Time limits, in seconds. Two attempts stay under the two seconds after which a caller must have its 503.
CONNECT_SECONDS = 0.5
ANSWER_SECONDS = 0.8
#: Pause between two looks at a server that loads its data, in seconds.
_LOADING_LOOK_SECONDS = 0.5
#: Connections that a process may have at a time, mostly one for each of its threads.
API_CONNECTIONS = 730
WEBHOOK_WORKER_CONNECTIONS = 90
WORKER_CONNECTIONS = 20
#: After these a command is sent again over a new connection: the old one is broken, or leads to a server that a
#: failover has made a replica, which has refused it.
_RECONNECT_AFTER = (redis.exceptions.ConnectionError, redis.exceptions.TimeoutError, redis.exceptions.ReadOnlyError)
#: The oldest supported servers.
_MIN_VERSIONS = {"Redis": (7, 0), "Valkey": (7, 2)}


class ThreadConnections(redis.ConnectionPool):
    """A connection for each thread, for as long as the thread lives.

    It saves 4 % of a submit and 5 % of a poll: redis-py's pool takes two locks and a look at the socket for each
    command. A broken connection is found when it is used, and the client's retry replaces it.
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
        """Do nothing: the thread keeps its connection."""


class Client(redis.Redis):
    """redis-py's client without its telemetry, nor its copies of each command's arguments.

    The telemetry costs 2 to 3 % of a submit and of a poll even where it is off; the copies 2 % of a submit.
    """

    def execute_command(self, *command: Any, **options: Any) -> Any:
        connection: Any = self.connection_pool.get_connection()
        try:
            return self._once(connection, *command, **options)
        except _RECONNECT_AFTER:
            connection.disconnect()
            return self._once(connection, *command, **options)

    def _once(self, connection: Any, *command: Any, **options: Any) -> Any:
        name, *arguments = command
        connection.send_packed_command([pack_command((*name.split(), *arguments))])
        return self.parse_response(connection, command[0], **options)  # type: ignore[no-untyped-call]


def connect(url: str) -> redis.Redis:
    """Return a client for `url` (`redis://…`, `rediss://…`, `unix://…`) that many threads may share.

    It connects on first use. One immediate retry replaces connections that a restart of Redis broke: every script is
    safe to repeat.
    """
    pool = ThreadConnections.from_url(RedisUrl.parse(url).for_client(), **_options())
    return Client(connection_pool=pool)


def connect_to_listen(url: str) -> redis.Redis:
    """Return a client with redis-py's own pool: a subscription keeps its connection for itself."""
    return redis.Redis.from_url(RedisUrl.parse(url).for_client(), **_options())


def _options() -> dict[str, Any]:
    return {
        "decode_responses": True,
        "socket_connect_timeout": CONNECT_SECONDS,
        "socket_timeout": ANSWER_SECONDS,
        "retry": Retry(NoBackoff(), 1),
        "max_connections": 2**31 - 1,  # redis-py's default is 100; the API has a thread for each call that it holds
        "protocol": 2,  # the reply types that the farm expects
        # Else each connection looks redis-py's version up, and tells the server: two thirds of the time that it takes.
        "driver_info": None,
    }


class _Translation:
    """A context that translates errors. It has no state, so one serves all: a generator would cost 1 % of a submit."""

    def __enter__(self) -> None:
        pass

    def __exit__(self, _type: object, error: BaseException | None, _traceback: object) -> None:
        if isinstance(error, redis.exceptions.RedisError):
            raise _farm_error(error) from error


_TRANSLATION = _Translation()


def translated() -> _Translation:
    """Translate redis-py's errors within the block to the farm's: full memory, a refused command, or no answer."""
    return _TRANSLATION


def _farm_error(error: redis.exceptions.RedisError) -> StoreFull | StoreUnavailable:
    if isinstance(error, redis.exceptions.OutOfMemoryError):
        return StoreFull()
    if isinstance(error, redis.exceptions.ResponseError):
        # Its text names keys and scripts: it is for the log, not for callers.
        _log.error("Redis refused a command", error=str(error))
        text = "The job store (Redis) refused a command; the farm's log has the reason."
        return StoreUnavailable(text, detail=str(error))
    return StoreUnavailable(detail=str(error))


def broker_url(url: str) -> str:
    """Return the URL of the same server as Celery's transport spells it."""
    return RedisUrl.parse(url).for_broker()


def check(client: redis.Redis, *, unsafe: bool) -> None:
    """Raise ConfigurationError for a server that cannot serve a farm, or would lose jobs.

    Waits while the server loads its data. Uses only INFO and EVAL, since managed servers forbid CONFIG and ACL.
    `unsafe` accepts a server without persistence, or with eviction.
    """
    info = _info_once_loaded(client)
    problem = serving_problem(info) or rights_problem(client)
    if problem is None and not unsafe:
        problem = persistence_problem(info) or eviction_problem(info)
    if problem:
        raise ConfigurationError(problem)


def _info_once_loaded(client: redis.Redis) -> dict[str, Any]:
    is_said = False
    while (info := _info(client)).get("loading"):
        if not is_said:
            _log.warning("waiting for Redis: it loads its data", seconds_left=info.get("loading_eta_seconds"))
            is_said = True
        clock.pause(_LOADING_LOOK_SECONDS)
    return info


def _info(client: redis.Redis) -> dict[str, Any]:
    """Return the server's INFO. Raises ConfigurationError if it refuses this user, or is no Redis."""
    with translated():
        try:
            info: dict[str, Any] = client.info()
        except redis.exceptions.RedisError as error:
            if problem := access_problem(error, database_of(client)):
                raise ConfigurationError(problem) from error
            raise
    return info


def access_problem(error: redis.exceptions.RedisError, database: int = 0) -> str | None:
    """Return what is wrong if a server refuses the user of the URL, is no Redis, or has a bad certificate."""
    if isinstance(error, redis.exceptions.InvalidResponse):
        return "FARM_REDIS_URL: what answers there is no Redis; correct the host and the port: redis://host:6379/0"
    if isinstance(error, redis.exceptions.NoPermissionError):
        return f"FARM_REDIS_URL: Redis does not give this user the rights that it needs ({error}); {_rights(database)}"
    if isinstance(error, redis.exceptions.AuthenticationError):
        return "FARM_REDIS_URL: Redis refuses this user or password; correct them: redis://user:password@host:port/0"
    if "DB index is out of range" in str(error):
        return "FARM_REDIS_URL: this Redis has no database of this number; end it with /0"
    if problem := certificate_problem(error, setting="FARM_REDIS_URL", trust="its ssl_ca_certs"):
        return f"FARM_REDIS_URL: the certificate of Redis {problem.text}; {problem.remedy}"
    return None


def rights_problem(client: redis.Redis) -> str | None:
    """Return which rights the client's user lacks; None if it lacks none."""
    with translated():
        try:
            missing = missing_rights(client)
        except redis.exceptions.NoPermissionError as error:
            return access_problem(error, database_of(client))
    if not missing:
        return None
    lacking, remedy = " ".join(missing), _rights(database_of(client))
    return f"FARM_REDIS_URL: Redis does not give this user the rights that it needs ({lacking}); {remedy}"


def database_of(client: redis.Redis) -> int:
    return client.connection_pool.connection_kwargs.get("db") or 0


def _rights(database: int) -> str:
    """Return how to give a Redis user what the farm needs."""
    rules = f"~srpo:* &srpo:* &{celery_channel(database)} +@all -@dangerous +info"
    return f"run `ACL SETUSER name on >password {rules}` there, see docs/redis.md"


def serving_problem(info: Mapping[str, Any]) -> str | None:
    """Return why a server cannot serve a farm, whatever it holds: its version, its mode or its role."""
    return version_problem(info) or mode_problem(info) or role_problem(info)


def mode_problem(info: Mapping[str, Any]) -> str | None:
    if info.get("redis_mode") == "sentinel":
        return "FARM_REDIS_URL: this is a Sentinel, which holds no data; set it to the address of the primary"
    if info.get("cluster_enabled") or info.get("redis_mode") == "cluster":
        return (
            "FARM_REDIS_URL: this Redis runs in cluster mode, but each change of a job uses keys of several slots; "
            "set it to a Redis without `cluster-enabled yes`"
        )
    return None


def role_problem(info: Mapping[str, Any]) -> str | None:
    if info.get("role", "master") == "master":
        return None
    return "FARM_REDIS_URL: this Redis is a replica, which is read-only; set it to the address of its primary"


def name_and_version(info: Mapping[str, Any]) -> tuple[str, str]:
    """Return a server's product and version. Valkey also reports the Redis version that it is compatible with."""
    if "valkey_version" in info:
        return "Valkey", str(info["valkey_version"])
    return "Redis", str(info.get("redis_version", "0"))


def version_problem(info: Mapping[str, Any]) -> str | None:
    name, version = name_and_version(info)
    minimum = _MIN_VERSIONS[name]
    if tuple(int(part) for part in version.split(".")[:2]) >= minimum:
        return None
    return f"FARM_REDIS_URL: {name} {version} is too old; the farm needs {name} {minimum[0]}.{minimum[1]} or later"


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
