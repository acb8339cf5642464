"""Twenty thousand jobs through a whole farm: the memory of its processes stops growing, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import pytest

from farm.jobstore import redis_keys
from farm.storage.storage import farm_of_mark
from tests.farms import RunningFarm, running_farm, wait_for
from tests.images import data_uri, sample_image
from tests.process.test_events import events, stream
from tests.webhook_receiver import Receiver, running_receiver

#: Its timing needs the machine for itself.
pytestmark = pytest.mark.alone

#: Jobs of each round, and how many callers bring them at once. The first fills what has a bound: caches, connections,
#: threads, and what the allocator keeps for each of these.
ROUNDS = ((4_000, 16), (4_000, 8), (4_000, 8), (4_000, 8), (4_000, 8))
JOBS = sum(jobs for jobs, _ in ROUNDS)
#: Have the allocator give back what is freed: what a process has then is what it holds.
ALLOCATOR = {"MALLOC_ARENA_MAX": "1", "MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}
#: What each job after the first round may leave in a process, in bytes: less than the smallest record of one.
MAX_LEFT = 400
#: The same in Redis, which counts what it holds.
MAX_LEFT_IN_REDIS = 20
#: So many changes are kept; those of 20,000 jobs are fewer.
CHANGES = 100_000
#: What stays however many jobs there were: by the name's first word.
LASTING = {
    *("accepted_vfinish", "claimed_vfinish", "vclock", "worker_vfinish"),
    *("public_url", "farm_id", "fence", "models", "outbox", "totals", "sweep", "celery"),
    *("idle_workers", "processes", "worker", "workers", "delivery_queues", "webhook_secret", "signing_key"),
    *("worker_facts", "pace", "caller_images", "counted", "daily_usage", "schema", "storage"),
}
IMAGE = data_uri(sample_image(256, 256))


@dataclass(frozen=True)
class Holding:
    """The resources of one process: its own memory in bytes, open files and threads."""

    program: str
    bytes: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Holding:
        folder = Path(f"/proc/{pid}")
        facts = dict(line.split(":", 1) for line in (folder / "status").read_text().splitlines())
        kilobytes = sum(int(facts[name].split()[0]) for name in ("RssAnon", "VmSwap"))
        words = (folder / "cmdline").read_text().split("\0")
        program = words[words.index("-m") + 1] if "-m" in words else "redis"
        return cls(program, kilobytes * 1024, len(list((folder / "fd").iterdir())), int(facts["Threads"]))


@dataclass(frozen=True)
class Moment:
    """The state of a farm that has deleted all jobs."""

    processes: dict[int, Holding]
    redis_keys: int
    bytes: int

    @classmethod
    def of(cls, farm: RunningFarm) -> Moment:
        processes = {pid: Holding.of(pid) for pid in farm.pids()}
        # The outbox is full of changes of one length, which give way to others.
        outbox = farm.redis.memory_usage(redis_keys.OUTBOX, samples=0)
        assert outbox is not None
        held = farm.redis.info("memory")["used_memory_dataset"] - outbox
        return cls(processes, farm.redis.dbsize(), held)


def submit(farm: RunningFarm, receiver: Receiver, number: int) -> None:
    """Submit a job in one of several ways."""
    fields = {"num_inference_steps": 1, "seed": number}
    match number % 20:
        case 0:
            body = fields | {"prompt": "a fox", "image_size": {"width": 256, "height": 256}}
            answer = farm.call("POST", "/fal/run/fal-ai/flux/srpo", body)
            assert answer.status == 200, answer.body
        case 1 | 3 | 7 | 9 | 11 | 17:
            farm.submit(webhook_url=receiver.url, **fields)
        case 5:
            body = {"prompt": "a fox", "image_url": IMAGE, "num_inference_steps": 10}
            answer = farm.call("POST", "/fal/queue/fal-ai/flux/srpo/image-to-image", body)
            assert answer.status == 200, answer.body
        case 10:
            job_id = farm.submit(**fields)
            assert farm.call("POST", f"/farm/v1/jobs/{job_id}/cancel").status in (200, 202)
        case 15:
            assert farm.call("POST", "/farm/v1/jobs", {"model": "srpo", "seed": "none"}).status == 422
            farm.submit(**fields)
        case _:
            farm.job(farm.submit(**fields))


def follow(farm: RunningFarm) -> int:
    """Follow all events until the farm ends, and return how many there were."""
    with stream(farm.url) as response:
        return sum(1 for _ in events(response))


def fill_outbox(farm: RunningFarm) -> None:
    """Fill the outbox with one entry again and again."""
    farm.wait_for_end(farm.submit())
    ((_, entry),) = cast(list[tuple[str, dict[Any, Any]]], farm.redis.xrange(redis_keys.OUTBOX, count=1))
    with farm.redis.pipeline(transaction=False) as pipeline:
        for _ in range(CHANGES):
            pipeline.xadd(redis_keys.OUTBOX, entry)
        pipeline.execute()


def rest(farm: RunningFarm) -> set[str]:
    """Return what is left of any job."""
    names = (
        str(name).removeprefix(redis_keys.PREFIX) for name in farm.redis.scan_iter(f"{redis_keys.PREFIX}*", count=1000)
    )
    return {name for name in names if name.split(":")[0] not in LASTING}


def is_at_rest(farm: RunningFarm) -> bool:
    """Return True if the farm has forgotten all jobs, and Redis has no background process rewriting its file."""
    return not rest(farm) and not farm.redis.info("persistence")["aof_rewrite_in_progress"]


def moments(farm: RunningFarm, bring: Callable[[int], None]) -> list[Moment]:
    """Return the state after each round."""
    found, begin = [], 0
    for jobs, callers in ROUNDS:
        with ThreadPoolExecutor(callers) as pool:
            for _ in pool.map(bring, range(begin, begin + jobs)):
                """Each must be accepted."""
        begin += jobs
        wait_for(lambda: is_at_rest(farm), seconds=300, what="a farm that has forgotten all")
        found.append(Moment.of(farm))
        sizes = (f"{held.program} {held.bytes / 2**20:.1f} MiB" for held in found[-1].processes.values())
        print(f"{begin} jobs:", *sizes, f"in Redis {found[-1].bytes} bytes", sep="\n  ")
    return found


def judge(first: Moment, last: Moment, jobs: int) -> None:
    """Compare two moments, so many jobs apart: nothing of the jobs is left."""
    assert last.processes.keys() == first.processes.keys(), "a process was replaced"
    for pid, held in last.processes.items():
        before = first.processes[pid]
        assert held.bytes - before.bytes < jobs * MAX_LEFT, (pid, before, held)
        assert held.files <= before.files + 8, (pid, before, held)
        assert held.threads <= before.threads + 4, (pid, before, held)
    assert last.redis_keys <= first.redis_keys
    assert last.bytes - first.bytes < jobs * MAX_LEFT_IN_REDIS, (first.bytes, last.bytes)


@pytest.mark.full
@pytest.mark.timeout(2400)
def test_twenty_thousand_jobs_leave_nothing_behind(tmp_path: Path) -> None:
    settings = {"FARM_SIMULATED_STEP_MS": "0", "FARM_RESULT_TTL": "1m", "FARM_WEBHOOK_ALLOW": "127.0.0.1", **ALLOCATOR}
    data_dir = tmp_path / "data"
    with running_receiver() as receiver, ThreadPoolExecutor(1) as aside, running_farm(data_dir, **settings) as farm:
        fill_outbox(farm)
        heard = aside.submit(follow, farm)
        first, *_, last = moments(farm, lambda number: submit(farm, receiver, number))
        files = {path.name for path in (data_dir / "images").rglob("*") if path.is_file()}

    judge(first, last, JOBS - ROUNDS[0][0])
    assert {name for name in files if not farm_of_mark(name)} == set()
    assert heard.result(timeout=60) > 2 * JOBS


PID = 7
FIRST = Moment({PID: Holding("api", bytes=80_000_000, files=40, threads=20)}, redis_keys=30, bytes=9_000_000)


@pytest.mark.parametrize(
    "last",
    [
        replace(FIRST, processes={PID: replace(FIRST.processes[PID], bytes=90_000_000)}),
        replace(FIRST, processes={PID: replace(FIRST.processes[PID], files=60)}),
        replace(FIRST, processes={PID: replace(FIRST.processes[PID], threads=30)}),
        replace(FIRST, processes={8: FIRST.processes[PID]}),
        replace(FIRST, redis_keys=31),
        replace(FIRST, bytes=10_000_000),
    ],
)
def test_a_leak_of_ten_thousand_jobs_is_found(last: Moment) -> None:
    judge(FIRST, FIRST, 10_000)
    with pytest.raises(AssertionError):
        judge(FIRST, last, 10_000)
