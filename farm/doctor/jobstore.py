"""The job store: Redis, what it would lose, what it still has room for."""

from __future__ import annotations

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
from farm.jobstore.connection import eviction_problem, name_and_version, persistence_problem, version_problem
from farm.jobstore.memory_guard import FULL_AT
from farm.process import embedded_redis
from farm.settings import masked


@dataclass(frozen=True, slots=True)
class Server:
    """A Redis that answers: what it tells of itself, and how long that took.

    `fsync`: when it syncs its append-only file; none where it keeps that to itself, as managed ones do.
    """

    url: str
    info: Mapping[str, Any]
    answered_in: float
    fsync: str = ""

    @classmethod
    def ask(cls, client: redis.Redis, url: str) -> Server:
        began = clock.monotonic()
        info = client.info()
        answered_in = clock.monotonic() - began
        with suppress(redis.exceptions.ResponseError):
            return cls(url, info, answered_in, str(client.config_get("appendfsync").get("appendfsync", "")))
        return cls(url, info, answered_in)


def at_rest(program_version: str | None = None) -> Finding:
    """The embedded server while no farm runs: whether it could start."""
    said = program_version or _version_of(embedded_redis.program())
    name, _, version = said.partition(" server v=")
    problem = version_problem({f"{name.lower()}_version": version.split()[0]})
    return refused("Redis", problem) if problem else good("Redis", f"embedded; {name} {version.split()[0]} is here")


def not_answering(url: str | None, data_dir: Path, reason: str) -> Finding:
    """A server that should be there. `url`: one's own; None: the embedded one of a farm that runs."""
    if url is not None:
        text = f"{masked(url)} does not answer: {masked(reason)}"
        return wrong("Redis", text, "start that Redis, or correct FARM_REDIS_URL")
    log = data_dir / "redis" / "log"
    return wrong("Redis", f"the embedded server does not answer: {reason}", f"its log says why: tail {log}")


def server(found: Server, *, own: bool, unsafe: bool) -> Iterator[Finding]:
    """What the server says of itself. `own`: the operator's, not the embedded one; `unsafe`: FARM_REDIS_UNSAFE."""
    yield _itself(found, own=own)
    yield _persistence(found.info, unsafe)
    if found.info.get("aof_enabled") and found.fsync:
        yield _sync(found.fsync, own=own)
    evicts = eviction_problem(found.info)
    mark = Mark.NOTE if unsafe else Mark.WRONG
    yield refused("eviction", evicts, mark) if evicts else good("eviction", "noeviction: full memory loses no job")
    used, limit = int(found.info["used_memory"]), int(found.info.get("maxmemory", 0))
    yield memory_finding(used, limit, own=own)


def scripts(client: redis.Redis) -> Finding:
    """Every change of a job is a script, so they must be allowed to run."""
    try:
        client.eval("return redis.call('PING')", 0)
    except redis.exceptions.NoPermissionError as error:
        return wrong("scripts", f"Redis does not run the farm's: {error}", "allow this user eval, evalsha and script")
    return good("scripts", "Redis runs the farm's")


def clock_of(client: redis.Redis) -> Finding:
    began = clock.now_us()
    seconds, microseconds = client.time()
    ended = clock.now_us()
    apart = seconds * 1_000_000 + microseconds - (began + ended) / 2
    return clock_finding("Redis's clock", apart / 1e6, blur=(ended - began) / 2e6)


def memory_finding(used: int, limit: int, *, own: bool) -> Finding:
    if limit == 0:
        text = f"{size(used)} used, without a limit: jobs could fill the machine"
        return note("Redis memory", text, "redis-cli CONFIG SET maxmemory 1gb")
    text = f"{size(used)} of {size(limit)} used ({used / limit:.0%}); submits stop at {FULL_AT:.0%}"
    if used < FULL_AT * limit:
        return good("Redis memory", text)
    more = "redis-cli CONFIG SET maxmemory, with more; or " if own else ""
    return wrong("Redis memory", text, f"{more}keep finished jobs for less long: FARM_RESULT_TTL=1d")


def _itself(found: Server, *, own: bool) -> Finding:
    problem = version_problem(found.info)
    if problem:
        return refused("Redis", problem)
    if found.info.get("role", "master") != "master":
        return wrong(
            "Redis", f"{masked(found.url)} is a replica, which takes no jobs", "set FARM_REDIS_URL to its master"
        )
    where = masked(found.url) if own else "embedded"
    name = " ".join(name_and_version(found.info))
    return good("Redis", f"{where}; {name} answers in {found.answered_in * 1e3:.1f} ms")


def _persistence(info: Mapping[str, Any], unsafe: bool) -> Finding:
    problem = persistence_problem(info)
    if problem:
        return refused("persistence", problem, Mark.NOTE if unsafe else Mark.WRONG)
    for what in ("aof_last_write_status", "aof_last_bgrewrite_status"):
        if info.get(what, "ok") != "ok":
            return wrong("persistence", f"Redis could not write its append-only file ({what})", "make room on its disk")
    return good("persistence", "append-only file, written well")


def _sync(fsync: str, *, own: bool) -> Finding:
    if fsync == "always":
        return good("sync", "every change is on the disk before it is answered")
    if not own or fsync == "everysec":
        # The embedded server's files are synced by the farm.
        more = "CONFIG SET appendfsync always" if own else "FARM_REDIS_FSYNC=always"
        return good("sync", f"once a second: a power cut may cost the jobs of two ({more} costs none, but time)")
    return note("sync", "when the system likes: a power cut may cost many jobs", "CONFIG SET appendfsync everysec")


def _version_of(program: str) -> str:
    return subprocess.run([program, "--version"], capture_output=True, text=True, timeout=5, check=True).stdout
