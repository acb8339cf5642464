"""The cost of the control plane: round trips, time of Redis and memory of each job, and claims of many workers at once.

The store's rows use its own calls on an embedded Redis; the whole way of a job is counted on a farm with the simulated
pipeline. A ratio compares two measurements of the same run. `python -m tests.bench.control --waiting 1000000` prints
only the rows about many waiting jobs, with so many of them.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import statistics
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import redis
import structlog
import urllib3

from farm.jobstore import redis_keys
from farm.jobstore.connection import connect
from farm.jobstore.scripts import digest, script_text
from farm.jobstore.store import JobStore
from farm.process.embedded_redis import EmbeddedRedis, address
from tests.bench.figure import Figure, percentile, print_table
from tests.farms import RunningFarm, running_farm, wait_for
from tests.service.api.calls import GENERATIONS
from tests.service.bulk.bulks import BATCHES, FILES
from tests.service.jobstore.bulk_submit import submit_all
from tests.service.jobstore.jobs import FACTS, TERMS, new_job, result
from tests.webhook_receiver import Receiver, running_receiver

AMPLE = replace(TERMS, lease_seconds=600, queue_limit=10_000_000)
PROMPT = "a red fox in the snow " * 18
FEW, MANY = 100, 100_000
WAYS = 50
ROUNDS = 21
FLAT_MAX = 1.5
BYTES_MAX = 2048
MIN_MEMORY = 1 << 30

JOBS = 40
ROUND_TRIPS_MAX = 12
IDLE_SECONDS = 3
#: Commands that are sent in one round trip with the one before them: Celery's acknowledgement in its transaction, and
#: what a worker reads of the queues before it claims ahead.
PIPELINED = (
    *(f"{name} {redis_keys.CELERY}unacked" for name in ("ZREM", "HDEL")),
    "EXEC",
    *(f"{name} {redis_keys.PREFIX}{key}" for name, key in (("HGETALL", "paused_groups"), ("ZCARD", "queue:"))),
)
_END = "end of the measurement"
#: Scripts that come with time, not with jobs: heartbeats and progress, and each second's rounds.
BY_TIME = ("renew", "renew_unprepared", "renew_bulk", "call_heartbeat", "reap", "claim_expired", "claim_bulk")

CLAIMERS = (4, 64)
PROCESSES = 4
CLAIMS_A_SECOND = 100
SECONDS = 6
CLAIM_MAX = 2.0

LINES = 3000
SINGLES = 300
INTAKE_MIN = 8.0

NOTE = f"""\
Control plane: prompts of {len(PROMPT)} characters. Way of a job: submit, claim and complete, by the store's own calls
from one thread; the processor time is Redis's, without that of the client. Round trips: commands that Redis gets from
its clients (MONITOR) from the submit to the webhook's end, without heartbeats, progress and what a farm at rest
sends. Claims: {CLAIMS_A_SECOND} a second in all, from {PROCESSES} processes. Intake: processor time of all processes
of a paused farm; for a bulk from the upload until its lines are checked, for single calls until they are answered."""


def figures(folder: Path) -> Iterator[Figure]:
    """Yield the table's rows about the control plane. `folder` takes the data."""
    with running_redis(folder / "short") as (url, short):
        yield from depth(folder, short, MANY)
        yield _claims(url, short)
    with running_receiver() as receiver, _farm(folder / "way") as farm:
        yield _round_trips(farm, receiver)
    with _farm(folder / "intake") as farm:
        yield _intake(farm)


@contextmanager
def running_redis(folder: Path) -> Iterator[tuple[str, redis.Redis]]:
    server = EmbeddedRedis(folder)
    server.start()
    try:
        url = address(folder)
        assert url is not None
        yield url, connect(url)
    finally:
        server.stop()


@contextmanager
def _farm(folder: Path) -> Iterator[RunningFarm]:
    with running_farm(
        folder, FARM_SIMULATED_STEP_MS="1", FARM_QUEUE_LIMIT="1000000", FARM_WEBHOOK_ALLOW="127.0.0.1"
    ) as farm:
        yield farm


# The store alone


def depth(folder: Path, short: redis.Redis, waiting: int) -> Iterator[Figure]:
    """Compare two servers in many short rounds: one with few waiting jobs, one with many."""
    submit_all(short, AMPLE, _waiting(FEW))
    with running_redis(folder / "long") as (url, long):
        each = _fill(url, long, waiting)
        for client in (short, long):
            _ways(client)  # opens the connection, and loads the scripts
        pairs = [(_ways(short), _ways(long)) for _ in range(ROUNDS)]
    few, many = (statistics.median(side) for side in zip(*pairs, strict=True))
    ratio = statistics.median(deep / shallow for shallow, deep in pairs)
    what = f"Redis's time for a job's way, {waiting:,} waiting beside {FEW}"
    yield Figure(what, f"{many:.0f} us", ratio, f"{few:.0f} us", at_most=FLAT_MAX)
    yield Figure("memory of a waiting job", f"{each:.0f} B", each / BYTES_MAX, f"{BYTES_MAX} B", at_most=1.0)


def _fill(url: str, client: redis.Redis, waiting: int) -> float:
    """Let so many jobs wait, and return the bytes of memory that one takes."""
    client.config_set("maxmemory", max(MIN_MEMORY, 2 * BYTES_MAX * waiting))
    client.config_set("auto-aof-rewrite-percentage", 0)  # it would write all of them anew amid the measurement
    before = int(client.info("memory")["used_memory"])
    parts = [waiting * (number + 1) // PROCESSES - waiting * number // PROCESSES for number in range(PROCESSES)]
    with ProcessPoolExecutor(PROCESSES) as pool:
        assert sum(pool.map(_submit_part, [url] * PROCESSES, parts)) == waiting
    return (int(client.info("memory")["used_memory"]) - before) / waiting


def _submit_part(url: str, count: int) -> int:
    return submit_all(connect(url), AMPLE, _waiting(count))


def _waiting(count: int) -> Iterator[Any]:
    """Yield jobs of 50 callers, each of which fills a batch."""
    for number in range(count):
        yield new_job(f"caller-{number % 50}", prompt=PROMPT, images=4)


def _ways(client: redis.Redis) -> float:
    """Return the microseconds of Redis for the way of a job. As many wait afterwards as before."""
    store = JobStore(client, AMPLE)
    store.renew("bench", FACTS, [])
    began = redis_seconds(client)
    for new in _waiting(WAYS):
        store.submit(new)
        (job,) = store.claim("bench", ["srpo"]).batch.jobs
        assert store.complete(job, result(job))
    return (redis_seconds(client) - began) / WAYS * 1e6


def redis_seconds(client: redis.Redis) -> float:
    cpu = client.info("cpu")
    return float(cpu["used_cpu_user_main_thread"]) + float(cpu["used_cpu_sys_main_thread"])


def _claims(url: str, client: redis.Redis) -> Figure:
    """Compare the slowest claims of few and of many workers at an equal total rate."""
    slowest = {}
    for claimers in CLAIMERS:
        client.flushdb()
        submit_all(client, AMPLE, _waiting(2 * CLAIMS_A_SECOND * SECONDS))
        with ProcessPoolExecutor(PROCESSES) as pool:
            each = [pool.submit(_claim_seconds, url, claimers // PROCESSES, claimers) for _ in range(PROCESSES)]
            seconds = [second for future in each for second in future.result()]
        slowest[claimers] = 1000 * percentile(seconds, 99)
    few, many = (slowest[claimers] for claimers in CLAIMERS)
    what = f"p99 of a claim, {CLAIMERS[1]} claimers beside {CLAIMERS[0]}"
    return Figure(what, f"{many:.2f} ms", many / few, f"{few:.2f} ms", at_most=CLAIM_MAX)


def _claim_seconds(url: str, threads: int, claimers: int) -> list[float]:
    """Claim as this process's workers, each at its part of the rate, and return how long each claim took.

    The first claim of each worker opens its connection, and does not count.
    """
    store, found = JobStore(connect(url), AMPLE), []

    def claim(number: int) -> None:
        pause = claimers / CLAIMS_A_SECOND
        due = time.monotonic() + pause * number / threads
        for turn in range(1 + round(SECONDS / pause)):
            time.sleep(max(0.0, due - time.monotonic()))
            began = time.perf_counter()
            assert store.claim(f"w-{threading.get_ident()}", ["srpo"]).batch
            if turn:
                found.append(time.perf_counter() - began)
            due += pause

    workers = [threading.Thread(target=claim, args=(number,)) for number in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
    return found


# Whole farms


def _round_trips(farm: RunningFarm, receiver: Receiver) -> Figure:
    """Count the commands of jobs one after another, each until its webhook has been delivered."""
    by_time = {digest(script_text(name)) for name in BY_TIME}
    _deliver(farm, receiver)
    idle = _commands(farm, by_time, lambda: time.sleep(IDLE_SECONDS)) / IDLE_SECONDS
    began = time.monotonic()
    sent = _commands(farm, by_time, lambda: _deliver(farm, receiver, JOBS))
    each = (sent - idle * (time.monotonic() - began)) / JOBS
    what = "round trips of a job, submit to webhook"
    return Figure(what, f"{each:.1f}", each, f"{idle:.1f}/s at rest", is_ratio=False, at_most=ROUND_TRIPS_MAX)


def _deliver(farm: RunningFarm, receiver: Receiver, jobs: int = 1) -> None:
    for count in range(len(receiver.received), len(receiver.received) + jobs):
        farm.submit(num_inference_steps=1, webhook_url=receiver.url, webhook_events=["job.completed"])
        wait_for(lambda: len(receiver.received) > count, what="the webhook")  # noqa: B023


def _commands(farm: RunningFarm, by_time: set[str], act: Callable[[], object]) -> int:
    """Return how many commands the farm's processes send while `act` runs."""
    seen: list[dict[str, str]] = []
    with farm.redis.monitor() as monitor:  # type: ignore[no-untyped-call]
        reader = threading.Thread(target=_read, args=(monitor, seen))
        reader.start()
        act()
        farm.redis.echo(_END)
        reader.join()
    return sum(_is_round_trip(command, by_time) for command in seen)


def _read(monitor: Any, seen: list[dict[str, str]]) -> None:
    for command in monitor.listen():
        if _END in command["command"]:
            return
        seen.append(command)


def _is_round_trip(command: dict[str, str], by_time: set[str]) -> bool:
    """Return True for what is sent for a job: no heartbeat or periodic round, nothing that comes in one with others."""
    text = command["command"]
    words = text.split()
    comes_with_time = words[0].upper() == "EVALSHA" and words[1] in by_time
    return command["client_type"] != "lua" and not comes_with_time and not text.startswith(PIPELINED)


def _intake(farm: RunningFarm) -> Figure:
    """Compare the processor time of a single submit with that of a line of a bulk."""
    assert farm.call("POST", "/farm/v1/pause").status == 200
    idle = _processor_seconds(farm, lambda: time.sleep(IDLE_SECONDS)) / IDLE_SECONDS

    def work(act: Callable[[], object]) -> float:
        began = time.monotonic()
        return _processor_seconds(farm, act) - idle * (time.monotonic() - began)

    work(lambda: _submit_singles(farm))  # opens the connections
    single = work(lambda: _submit_singles(farm)) / SINGLES
    line = work(lambda: _submit_bulk(farm)) / LINES
    what = f"intake: single submits beside {LINES:,} lines of a bulk"
    return Figure(what, f"{1e6 * line:.0f} us a line", single / line, f"{1e6 * single:.0f} us", at_least=INTAKE_MIN)


def _submit_singles(farm: RunningFarm) -> None:
    for number in range(SINGLES):
        farm.submit(prompt=PROMPT, seed=number)


def _submit_bulk(farm: RunningFarm) -> None:
    """Upload lines, create a batch, and wait until they are checked."""
    lines = [{"custom_id": f"r{n}", "method": "POST", "url": GENERATIONS, "body": _line(n)} for n in range(LINES)]
    file_id = _upload(farm, "\n".join(map(json.dumps, lines)).encode())
    batch = {"input_file_id": file_id, "endpoint": GENERATIONS, "completion_window": "24h"}
    batch_id = farm.call("POST", BATCHES, batch).json["id"]
    client = farm.redis
    wait_for(lambda: client.hget(redis_keys.bulk(batch_id), "state") == "in_progress", seconds=60, what="checked lines")


def _line(number: int) -> dict[str, object]:
    return {"model": "srpo", "prompt": PROMPT, "size": "256x256", "seed": number}


def _upload(farm: RunningFarm, content: bytes) -> str:
    fields: dict[str, str | tuple[str, bytes]] = {"purpose": "batch", "file": ("requests.jsonl", content)}
    answer = urllib3.request("POST", f"{farm.url}{FILES}", fields=list(fields.items()), timeout=60, retries=False)
    file_id: str = answer.json()["id"]
    return file_id


def _processor_seconds(farm: RunningFarm, act: Callable[[], object]) -> float:
    """Return the processor time of all processes of a farm while `act` runs."""
    before = sum(map(_seconds_of, farm.pids()))
    act()
    return sum(map(_seconds_of, farm.pids())) - before


def _seconds_of(pid: int) -> float:
    words = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(words[11]) + int(words[12])) / os.sysconf("SC_CLK_TCK")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.bench.control")
    parser.add_argument("--waiting", type=int, default=MANY, help="Jobs that wait.")
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with (
        tempfile.TemporaryDirectory(prefix="farm-depth-") as folder,
        running_redis(Path(folder) / "short") as (_, short),
    ):
        print_table([*depth(Path(folder), short, options.waiting)])


if __name__ == "__main__":
    main()
