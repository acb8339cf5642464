"""Check Redis: version, persistence, eviction, memory, rights, connections and clock."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import redis

from farm import clock
from farm.doctor.clocks import clock_finding
from farm.doctor.finding import Finding, Mark, good, note, refused, size, wrong
from farm.jobstore.clock_skew import clock_skew
from farm.jobstore.connection import (
    API_CONNECTIONS,
    WEBHOOK_WORKER_CONNECTIONS,
    WORKER_CONNECTIONS,
    access_problem,
    eviction_problem,
    name_and_version,
    persistence_problem,
    rights_problem,
    serving_problem,
    version_problem,
)
from farm.jobstore.memory_guard import FULL_AT
from farm.jobstore.redis_url import RedisUrl
from farm.jobstore.schema import Schema
from farm.process import embedded_redis
from farm.process.aof import aof_problem
from farm.settings import masked
from farm.telemetry.thresholds import REDIS_MEMORY_SHARE

#: The name under which a server program checks append-only files, and its time limit in seconds.
_CHECK_TOOL = "valkey-check-aof"
_CHECK_SECONDS = 8.0
#: What the tool says of a last command that was cut off, which Redis drops by itself.
_CUT_OFF = ("Expected to read", "Reached EOF")


#: The part of its connections at which a server has too few left.
_NEARLY = 0.9


@dataclass(frozen=True, slots=True)
class Server:
    """The answer of a Redis to INFO, and the time it took.

    `fsync`: its `appendfsync`; empty if CONFIG is not allowed, as on managed servers.
    """

    url: str
    info: Mapping[str, Any]
    answered_in: float
    fsync: str = ""

    @property
    def can_serve(self) -> bool:
        """True if the other checks can be made: a farm could use it now."""
        return serving_problem(self.info) is None and not self.info.get("loading")

    @classmethod
    def ask(cls, client: redis.Redis, url: str) -> Server:
        """Query a server."""
        began = clock.monotonic()
        info = client.info()
        answered_in = clock.monotonic() - began
        with suppress(redis.exceptions.ResponseError):
            return cls(url, info, answered_in, str(client.config_get("appendfsync").get("appendfsync", "")))
        return cls(url, info, answered_in)


def at_rest(program_version: str | None = None) -> Finding:
    """Check the version of the embedded server, which is not running."""
    version_text = program_version or _version_of(embedded_redis.program())
    name, _, version = version_text.partition(" server v=")
    problem = version_problem({f"{name.lower()}_version": version.split()[0]})
    return (
        refused("Redis", problem) if problem else good("Redis", f"embedded; {name} {version.split()[0]} is installed")
    )


def files_at_rest(data_dir: Path) -> Iterator[Finding]:
    """Check the append-only files of the embedded server, which is not running."""
    folder = data_dir / "redis"
    if problem := aof_problem(folder):
        yield refused("persistence", problem)
    for file in sorted((folder / "appendonlydir").glob("*.incr.aof")):
        yield from _damage(file, embedded_redis.program())


def _damage(file: Path, program: str) -> Iterator[Finding]:
    """Check one append-only file. The server is its own check tool, under the name of that tool."""
    tool = [_CHECK_TOOL, str(file.resolve())]
    done = subprocess.run(tool, executable=program, capture_output=True, text=True, timeout=_CHECK_SECONDS, check=False)
    if done.returncode == 0 or any(harmless in done.stdout for harmless in _CUT_OFF):
        return
    lost = re.search(r"diff=(\d+)", done.stdout)
    text = (
        f"{file} is damaged, so Redis does not start; its last {lost[1] if lost else 'few'} bytes of changes are lost"
    )
    mend = f'cp {tool[1]} {tool[1]}.damaged; bash -c "exec -a {_CHECK_TOOL} {program} --fix {tool[1]}"'
    yield wrong("persistence", text, mend)


def not_answering(url: str | None, data_dir: Path, error: redis.exceptions.RedisError) -> Finding:
    """Report a server that does not answer. `url`: the operator's own; None: the embedded one of a running farm."""
    reason = str(error)
    if url is not None:
        if problem := access_problem(error, int(RedisUrl.parse(url).database)):
            return refused("Redis", problem)
        text = f"{masked(url)} does not answer: {masked(reason)}"
        return wrong("Redis", text, "start that Redis, or correct FARM_REDIS_URL")
    log = data_dir / "redis" / "log"
    return wrong("Redis", f"the embedded server does not answer: {reason}", f"see its log: tail {log}")


def server(found: Server, *, own: bool, unsafe: bool) -> Iterator[Finding]:
    """Check a server. `own`: the operator's, not the embedded one; `unsafe`: FARM_REDIS_UNSAFE."""
    yield _itself(found, own=own)
    if not found.can_serve:
        return
    yield _persistence(found.info, unsafe)
    if found.info.get("aof_enabled") and found.fsync:
        yield _sync(found.fsync, own=own)
    evicts = eviction_problem(found.info)
    mark = Mark.NOTE if unsafe else Mark.WRONG
    yield refused("eviction", evicts, mark) if evicts else good("eviction", "noeviction: full memory loses no job")
    if limit := int(found.info.get("maxclients", 0)):
        yield connections_finding(int(found.info["connected_clients"]), limit)
    used, limit = int(found.info["used_memory"]), int(found.info.get("maxmemory", 0))
    yield memory_finding(used, limit, own=own)


def rights(client: redis.Redis) -> Finding:
    """Check that the farm's user may do what the farm does; every change of a job is a script."""
    if problem := rights_problem(client):
        return refused("rights", problem)
    return good("rights", "every command, key and channel of the farm is allowed")


def schema_finding(found: Schema | None, current: Schema) -> Finding:
    """Judge the schema that Redis holds, given this version's."""
    if found is None:
        return good("schema", f"no farm has used this Redis; this version writes schema {current.number}")
    if problem := current.problem_beside(found):
        return refused("schema", problem)
    beside = f"this version writes schema {current.number} and works beside {current.oldest} or later"
    return good("schema", f"Redis holds schema {found.number}; {beside}")


def connections_finding(used: int, limit: int) -> Finding:
    """Judge the number of connections that Redis takes."""
    needed = API_CONNECTIONS + WEBHOOK_WORKER_CONNECTIONS + WORKER_CONNECTIONS
    text = f"{used} of {limit} connections used"
    if limit >= needed and used < _NEARLY * limit:
        return good("connections", text)
    need = (
        f"under full load an API needs up to {API_CONNECTIONS}, a webhook worker {WEBHOOK_WORKER_CONNECTIONS}, "
        f"a worker {WORKER_CONNECTIONS}"
    )
    return note("connections", f"{text}; {need}", "redis-cli CONFIG SET maxclients 10000")


def clock_of(client: redis.Redis) -> Finding:
    """Compare the clock of Redis with this machine's."""
    return clock_finding("Redis's clock", clock_skew(client))


def memory_finding(used: int, limit: int, *, own: bool) -> Finding:
    """Judge the memory of Redis; a limit of 0 means no limit."""
    if limit == 0:
        text = f"{size(used)} used, no limit: jobs can fill the memory of the machine"
        return note("Redis memory", text, "redis-cli CONFIG SET maxmemory 1gb")
    text = f"{size(used)} of {size(limit)} used ({used / limit:.0%}); submits stop at {FULL_AT:.0%}"
    if used <= REDIS_MEMORY_SHARE * limit:
        return good("Redis memory", text)
    more = "raise it with redis-cli CONFIG SET maxmemory, or " if own else ""
    remedy = f"{more}keep finished jobs for a shorter time: FARM_RESULT_TTL=1d"
    return note("Redis memory", text, remedy) if used < FULL_AT * limit else wrong("Redis memory", text, remedy)


def _itself(found: Server, *, own: bool) -> Finding:
    problem = serving_problem(found.info)
    if problem:
        return refused("Redis", problem)
    if found.info.get("loading"):
        return note("Redis", "it loads its data; the farm waits until it has", "wait, then run farm doctor again")
    where = masked(found.url) if own else "embedded"
    name = " ".join(name_and_version(found.info))
    return good("Redis", f"{where}; {name} answers in {found.answered_in * 1e3:.1f} ms")


def _persistence(info: Mapping[str, Any], unsafe: bool) -> Finding:
    problem = persistence_problem(info)
    if problem:
        return refused("persistence", problem, Mark.NOTE if unsafe else Mark.WRONG)
    for what in ("aof_last_write_status", "aof_last_bgrewrite_status"):
        if info.get(what, "ok") != "ok":
            return wrong(
                "persistence", f"Redis could not write its append-only file ({what})", "free space on its disk"
            )
    return good("persistence", "append-only file")


def _sync(fsync: str, *, own: bool) -> Finding:
    if fsync == "always":
        return good("sync", "every change is on disk before Redis answers")
    if not own or fsync == "everysec":
        # The embedded server's files are synced by the farm.
        more = "CONFIG SET appendfsync always" if own else "FARM_REDIS_FSYNC=always"
        return good(
            "sync",
            f"once a second: a power failure may lose the jobs of two seconds ({more} loses none, but is slower)",
        )
    return note(
        "sync", "left to the operating system: a power failure may lose many jobs", "CONFIG SET appendfsync everysec"
    )


def _version_of(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
