"""Twenty thousand jobs through a whole farm: what its processes hold grows no more, and nothing is left behind."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import pytest

from farm.jobstore import keys
from tests.farms import RunningFarm, running_farm, wait_for
from tests.receiver import Receiver, running_receiver

JOBS, ROUNDS = 20_000, 4
#: What each process may grow by in the second half, in bytes: less than any job could leave behind.
MOST_GROWTH = JOBS // 2 * 600
#: What stays however many jobs there were: by the name's first word.
LASTING = {
    *("asked", "base", "clock", "farm", "fence", "given", "idle", "lines", "models", "outbox", "secret", "shares"),
    *("signing_key", "sweep", "totals", "worker", "workers", "celery"),
}


@dataclass(frozen=True)
class Holding:
    """What a process holds."""

    bytes: int
    files: int
    threads: int

    @classmethod
    def of(cls, pid: int) -> Holding:
        folder = Path(f"/proc/{pid}")
        pages = int((folder / "statm").read_text().split()[1])
        files, threads = (sum(1 for _ in (folder / name).iterdir()) for name in ("fd", "task"))
        return cls(pages * 4096, files, threads)


def submit(farm: RunningFarm, receiver: Receiver, number: int) -> None:
    """By several ways."""
    fields = {"num_inference_steps": 1, "seed": number}
    if number % 20 == 0:
        size = {"width": 256, "height": 256}
        answer = farm.call("POST", "/fal/run/fal-ai/flux/srpo", fields | {"prompt": "a fox", "image_size": size})
        assert answer.status == 200, answer.body
    elif number % 10 == 1:
        farm.submit(webhook_url=receiver.url, **fields)
    else:
        farm.job(farm.submit(**fields))


def rest(farm: RunningFarm) -> set[str]:
    """What is still there of any job."""
    names = (str(name).removeprefix(keys.PREFIX) for name in farm.redis.scan_iter(f"{keys.PREFIX}*", count=1000))
    return {name for name in names if name.split(":")[0] not in LASTING}


def holdings(farm: RunningFarm, receiver: Receiver, jobs: int) -> Iterator[dict[int, Holding]]:
    """What each process holds after each round of jobs, when all of them are forgotten."""
    with ThreadPoolExecutor(8) as pool:
        for begin in range(0, jobs, jobs // ROUNDS):
            for _ in pool.map(lambda number: submit(farm, receiver, number), range(begin, begin + jobs // ROUNDS)):
                """Each must be accepted."""
            wait_for(lambda: not rest(farm), seconds=300, what="a farm that has forgotten all")
            yield {pid: Holding.of(pid) for pid in farm.pids()}


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_twenty_thousand_jobs_leave_nothing_behind(tmp_path: Path) -> None:
    settings = {"FARM_SIMULATED_STEP_MS": "0", "FARM_RESULT_TTL": "5s", "FARM_WEBHOOK_ALLOW": "127.0.0.1"}
    with running_receiver() as receiver, running_farm(tmp_path / "data", **settings) as farm:
        rounds = list(holdings(farm, receiver, JOBS))
        pictures = list((tmp_path / "data" / "pictures").rglob("*.jpeg"))

    half, end = rounds[ROUNDS // 2 - 1], rounds[-1]
    assert end.keys() == half.keys(), "a process was replaced"
    for pid, held in end.items():
        print(pid, [one[pid].bytes >> 20 for one in rounds], "MiB,", held.files, "files,", held.threads, "threads")
        assert held.bytes - half[pid].bytes < MOST_GROWTH
        assert held.files <= half[pid].files + 8
        assert held.threads <= half[pid].threads + 4
    assert pictures == []
