"""Fair queueing: callers share the workers by work, images × megapixels × steps, however much each submits.

Shares are judged while they mean something: from when callers have jobs waiting until one of them has none left.
"""

from __future__ import annotations

import random
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace

import pytest
import redis

from farm.domain.job import NewJob
from farm.jobstore.store import JobStore
from tests.service.jobstore.bulk_submit import submit_all
from tests.service.jobstore.jobs import TERMS, lose, new_job, result

AMPLE = replace(TERMS, queue_limit=1_000_000)
#: Above this, shares count as equal (Jain, Chiu and Hawe 1984: 1 is equal, 1/n is one for all).
EQUAL = 0.95


@dataclass(frozen=True)
class Given:
    """A claimed job."""

    id: str
    caller: str
    priority: str
    work: float


class Queue:
    """Jobs of several callers, claimed by workers that never finish one."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._jobs: dict[str, NewJob] = {}
        self.store = JobStore(client, AMPLE)

    def add(self, jobs: Iterable[NewJob]) -> list[str]:
        """Submit the jobs in order, and return their ids."""
        several = list(jobs)
        submit_all(self._client, AMPLE, several)
        self._jobs |= {job.id: job for job in several}
        return [job.id for job in several]

    def claims(self, *workers: str, models: Sequence[str] = ("srpo",)) -> Iterator[list[Given]]:
        """Yield the jobs that these workers claim, in rotation, until none is left."""
        while batches := [batch for worker in workers or ("w1",) if (batch := self._claim(worker, models))]:
            yield from batches

    def _claim(self, worker: str, models: Sequence[str]) -> list[Given]:
        return [self._given(job.id) for job in self.store.claim(worker, models).batch.jobs]

    def _given(self, job_id: str) -> Given:
        new = self._jobs[job_id]
        return Given(job_id, new.caller, new.order.priority, new.order.request.cost)


@pytest.fixture
def queue(client: redis.Redis) -> Queue:
    return Queue(client)


def jain(shares: Iterable[float]) -> float:
    amounts = list(shares)
    return sum(amounts) ** 2 / (len(amounts) * sum(amount**2 for amount in amounts))


class Ledger:
    """The work that each caller has waiting and was given, since the ledger was opened."""

    def __init__(self, jobs: Iterable[NewJob]) -> None:
        self._left: Counter[str] = Counter()
        self._largest: dict[str, float] = {}
        self._given: defaultdict[str, float] = defaultdict(float)
        for job in jobs:
            self._left[job.caller] += 1
            self._largest[job.caller] = max(self._largest.get(job.caller, 0), job.order.request.cost)

    def note(self, batch: Iterable[Given]) -> None:
        for job in batch:
            self._left[job.caller] -= 1
            self._given[job.caller] += job.work

    def shares(self) -> dict[str, float]:
        """Return the work given to callers that had jobs waiting all the time."""
        return {caller: self._given[caller] for caller, left in self._left.items() if left}

    def lead(self) -> float:
        """Return how far the luckiest caller is ahead of the unluckiest, in their largest jobs."""
        shares = self.shares()
        maximum, minimum = (
            max(shares, key=lambda caller: shares[caller]),
            min(shares, key=lambda caller: shares[caller]),
        )
        return (shares[maximum] - shares[minimum]) / (self._largest[maximum] + self._largest[minimum])

    def has_begun(self) -> bool:
        """Return True if each caller was given so much that one more job makes no difference."""
        return all(given >= 4 * self._largest[caller] for caller, given in self.shares().items())


def hand_out(queue: Queue, jobs: Sequence[NewJob], *workers: str, models: Sequence[str] = ("srpo",)) -> list[float]:
    """Claim all jobs, and return indexes of fairness; after each claim no caller may be far ahead."""
    ledger, indexes = Ledger(jobs), []
    for batch in queue.claims(*workers, models=models):
        ledger.note(batch)
        shares = ledger.shares()
        if len(shares) > 1:
            # A batch takes jobs of one size together, so that a caller may have three more than its turn.
            assert ledger.lead() <= 3
            if ledger.has_begun():
                indexes.append(jain(shares.values()))
    return indexes


def demands(callers: int, jobs: int, largest: float) -> list[tuple[str, int]]:
    """Return so many demands from 1 to `largest`, in equal ratios, the largest first."""
    sizes = [largest ** (number / (callers - 1)) for number in range(callers)]
    counts = [max(1, round(size * jobs / sum(sizes))) for size in sizes]
    return [(f"caller-{number}", count) for number, count in reversed(list(enumerate(counts)))]


def test_fifty_callers_with_1_to_1000_jobs_get_equal_shares(queue: Queue) -> None:
    """Ten thousand jobs; each caller's all at once, the largest bulk first."""
    asked = demands(50, 10_000, 1000)
    jobs = [new_job(caller) for caller, count in asked for _ in range(count)]
    queue.add(jobs)

    indexes = hand_out(queue, jobs)

    assert 9_900 < len(jobs) < 10_100
    assert asked[0][1] >= 1000 * asked[-1][1]
    assert min(indexes) > EQUAL


def test_work_counts_and_not_jobs(queue: Queue) -> None:
    """Callers of small images and of large ones, with few steps and with many, on three workers."""
    dice = random.Random(1)
    jobs = [
        new_job(f"caller-{number}", width=side, height=side, steps=steps, images=images)
        for number, (side, steps, images) in enumerate(
            (dice.choice((256, 384, 512, 1024)), dice.randint(1, 50), dice.randint(1, 4)) for _ in range(50)
        )
        for _ in range(30)
    ]
    dice.shuffle(jobs)
    queue.add(jobs)

    indexes = hand_out(queue, jobs, "w1", "w2", "w3")

    assert len({job.order.request.cost for job in jobs}) > 40
    assert min(indexes) > EQUAL


def test_each_model_is_shared_equally_by_its_callers(queue: Queue) -> None:
    """Some ask for one model, some for the other, some for both; two workers serve both, one serves one."""
    choices = (("srpo",), ("kontext",), ("srpo", "kontext"))
    jobs = [
        new_job(f"caller-{number}", model=model, images=4)
        for number in range(12)
        for model in choices[number % 3]
        for _ in range(50)
    ]
    queue.add(jobs)
    ledgers = {model: Ledger(job for job in jobs if job.order.request.model == model) for model in ("srpo", "kontext")}
    names = {job.id: job.order.request.model for job in jobs}
    both = queue.claims("w1", "w2", models=("srpo", "kontext"))
    one = queue.claims("w3", models=("srpo",))
    for _, batches in zip(range(80), zip(both, both, one, strict=False), strict=False):
        for batch in batches:
            ledgers[names[batch[0].id]].note(batch)

    for ledger in ledgers.values():
        assert len(ledger.shares()) == 8
        assert ledger.has_begun()
        assert jain(ledger.shares().values()) > EQUAL


def test_a_worker_of_two_models_is_shared_by_the_time_that_their_jobs_take(queue: Queue) -> None:
    """Of jobs of equal cost, those of Kontext were measured to take three times as long as those of SRPO."""
    for model, seconds in (("srpo", 1.0), ("kontext", 3.0)):
        queue.add([new_job("earlier", model=model)])
        (job,) = queue.store.claim("w0", [model]).batch.jobs
        assert queue.store.complete(job, replace(result(job), timings={"device": seconds}))
    queue.add(new_job(f"caller of {model}", model=model, images=4) for model in ("srpo", "kontext") for _ in range(40))

    batches = queue.claims(models=("srpo", "kontext"))
    given = Counter(batch[0].caller for _, batch in zip(range(40), batches, strict=False))

    assert given == {"caller of srpo": 30, "caller of kontext": 10}


@pytest.mark.parametrize("images", [1, 4])
def test_low_priority_gets_exactly_one_eighth(queue: Queue, images: int) -> None:
    """The share is the same whether or not jobs of both could share a batch."""
    bands = ("normal", "low")
    jobs = [
        new_job(f"{band}-{n}", priority=band, images=images) for band in bands for n in range(5) for _ in range(100)
    ]
    queue.add(jobs)

    given: Counter[str] = Counter()
    left = 500
    for batch in queue.claims():
        left -= sum(job.priority == "normal" for job in batch)
        if left < 4:
            break
        given.update(job.priority for job in batch)

    assert given["low"] / given.total() == pytest.approx(1 / 8, rel=0.1)


def test_bulk_goes_last_but_never_starves(queue: Queue) -> None:
    """While callers' own priorities wait, one claim in 64 is for bulk."""
    bands = ("normal", "low", "bulk")
    jobs = [new_job(band, priority=band, images=4) for band in bands for _ in range(400)]
    queue.add(jobs)

    given = Counter(batch[0].priority for _, batch in zip(range(320), queue.claims(), strict=False))

    assert (given["bulk"], given["low"]) == (5, 35)


def test_inside_the_low_band_callers_share_alike_too(queue: Queue) -> None:
    jobs = [new_job(f"caller-{n}", priority="low", images=4) for n in range(10) for _ in range(10 + 10 * n)]
    queue.add(jobs)

    assert min(hand_out(queue, jobs)) > EQUAL


def test_a_late_caller_gets_an_equal_share_from_then_on(queue: Queue) -> None:
    early = [new_job(f"early-{n}", images=4) for n in range(5) for _ in range(100)]
    queue.add(early)
    for _, _ in zip(range(200), queue.claims(), strict=False):
        """For a while they are alone."""
    late = [new_job("late", images=4) for _ in range(40)]
    queue.add(late)

    ledger = Ledger([*early, *late])
    for _, batch in zip(range(180), queue.claims(), strict=False):
        ledger.note(batch)

    assert jain(ledger.shares().values()) > EQUAL
    assert ledger.lead() <= 1


def test_cancelling_and_submitting_again_gains_no_share(queue: Queue) -> None:
    """Anyone who takes back what waits and asks for it anew, again and again, is not served before others for it."""
    steady = [new_job(f"steady-{n}", images=4) for n in range(4) for _ in range(100)]
    queue.add(steady)
    ledger = Ledger([*steady, *(new_job("fickle", images=4) for _ in range(100))])
    for _ in range(20):
        waiting = queue.add(new_job("fickle", images=4) for _ in range(10))
        for _, batch in zip(range(10), queue.claims(), strict=False):
            ledger.note(batch)
        for job_id in waiting:
            queue.store.cancel(job_id)

    assert ledger.lead() <= 1


def test_returned_jobs_go_to_the_front_of_every_queue(queue: Queue, client: redis.Redis) -> None:
    """Priority and caller make no difference; jobs go in the order of their return."""
    queue.add(new_job(f"caller-{n % 7}", priority="low" if n % 3 else "normal", images=4) for n in range(70))
    lost = {job.id for _, batch in zip(range(10), queue.claims("dead"), strict=False) for job in batch}
    queue.store = JobStore(client, AMPLE)
    assert lose(client, queue.store) == 10

    again = [job.id for _, batch in zip(range(12), queue.claims(), strict=False) for job in batch]

    assert set(again[:10]) == lost
