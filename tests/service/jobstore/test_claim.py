"""Claiming: which jobs make a batch, in which order, and that no two workers get the same job."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from farm.domain.job import Claimed, State
from farm.domain.scheduling import Capacity
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import (
    FACTS,
    held,
    ids,
    lose,
    record,
    result,
    submit,
    take,
    take_one,
)
from tests.unit.dialects.samples import a_request


def test_a_claim_hands_over_what_rendering_needs(store: JobStore) -> None:
    job_id = submit(store, prompt='ünï "x" \\ 🦊', images=2, seed=9)

    job = take_one(store)

    assert (job.id, job.attempt, job.request) == (job_id, 1, record(store, job_id).request)
    assert job.fence > 0


@pytest.mark.parametrize(
    ("images", "batches"),
    [
        ([4, 1], [[0], [1]]),
        ([2, 2], [[0, 1]]),
        ([3, 2], [[0], [1]]),
        ([3, 1], [[0, 1]]),
        ([1, 1, 2], [[0, 1, 2]]),
        ([3, 2, 1], [[0, 2], [1]]),
        ([2, 3, 1, 1], [[0, 2, 3], [1]]),
    ],
)
def test_jobs_share_a_batch_where_their_images_fit(
    store: JobStore, images: list[int], batches: list[list[int]]
) -> None:
    wanted = [submit(store, images=count) for count in images]

    taken = [ids(take(store)) for _ in batches]

    assert taken == [[wanted[number] for number in batch] for batch in batches]
    assert take(store) == ()


@pytest.mark.parametrize("change", [{"width": 257}, {"height": 257}])
def test_jobs_that_disagree_share_no_batch(store: JobStore, change: dict[str, Any]) -> None:
    submit(store)
    submit(store, **change)

    assert [len(take(store)), len(take(store))] == [1, 1]


def test_jobs_of_two_models_share_no_batch(store: JobStore) -> None:
    submit(store)
    submit(store, model="kontext")

    batches = [store.claim("w1", ["srpo", "kontext"]).batch.jobs for _ in range(2)]

    assert [[job.request.model for job in batch] for batch in batches] == [["srpo"], ["kontext"]]


def test_prompts_seeds_guidance_steps_and_formats_may_differ(store: JobStore) -> None:
    submit(store)
    submit(store, prompt="an owl", seed=8, guidance=9.0, steps=5, output_format="png", safety=False)

    assert len(take(store)) == 2


def test_a_bulk_does_not_delay_another_callers_single_image(store: JobStore) -> None:
    """Each job fills a batch: the second claim after bob came must be his."""
    for _ in range(50):
        submit(store, "ada", images=4)
    take_one(store)
    wanted = submit(store, "bob", images=4)

    assert wanted in [take_one(store).id for _ in range(2)]


def test_callers_take_turns(store: JobStore) -> None:
    for caller in ("ada", "bob", "eve"):
        for _ in range(10):
            submit(store, caller, images=4)

    callers = [record(store, take_one(store).id).caller for _ in range(30)]

    for round_of_three in range(0, 30, 3):
        assert set(callers[round_of_three : round_of_three + 3]) == {"ada", "bob", "eve"}


def test_a_bulk_for_one_model_does_not_delay_a_single_image_of_another(store: JobStore) -> None:
    for _ in range(50):
        submit(store, "bulk", images=4)
    single = submit(store, "single", model="kontext")

    batches = [ids(store.claim("w1", ["srpo", "kontext"]).batch.jobs) for _ in range(2)]

    assert [single] in batches


def test_callers_take_turns_over_all_models_of_a_worker(store: JobStore) -> None:
    """Anyone who spreads its work over models gets no larger share of the worker than one that keeps to one."""
    for _ in range(12):
        submit(store, "spread", images=4)
        submit(store, "spread", images=4, model="kontext-edit")
        submit(store, "plain", images=4, model="kontext")
    models = ["srpo", "kontext", "kontext-edit"]

    claimed = [record(store, store.claim("w1", models).batch.jobs[0].id).caller for _ in range(12)]

    assert claimed.count("plain") == 6


def test_turns_are_by_the_work_asked_for(store: JobStore) -> None:
    """Ada asks for four times the steps a job, so that three or four of bob's jobs start for each of hers."""
    for _ in range(8):
        submit(store, "ada", images=4, steps=40)
    for _ in range(32):
        submit(store, "bob", images=4, steps=10)

    callers = Counter(record(store, take_one(store).id).caller for _ in range(20))

    assert callers["ada"] == pytest.approx(4, abs=1)


def test_idle_workers_share_what_waits(store: JobStore) -> None:
    """Three workers are idle when four jobs come: none takes all four."""
    for worker in ("w1", "w2", "w3"):
        take(store, worker)
    wanted = [submit(store) for _ in range(4)]

    batches = [ids(take(store, worker)) for worker in ("w1", "w2", "w3")]

    assert sorted(len(batch) for batch in batches) == [1, 1, 2]
    assert sorted(job_id for batch in batches for job_id in batch) == sorted(wanted)


def test_no_two_claims_give_the_same_job(store: JobStore) -> None:
    """Six workers at once, until nothing is left."""
    wanted = {submit(store, caller, images=1 + number % 3) for number in range(60) for caller in ("ada", "bob")}

    def work(worker: str) -> list[str]:
        mine: list[str] = []
        while batch := take(store, worker):
            mine += ids(batch)
        return mine

    with ThreadPoolExecutor(6) as pool:
        taken = [job_id for mine in pool.map(work, [f"w{number}" for number in range(6)]) for job_id in mine]

    assert len(taken) == len(wanted)
    assert set(taken) == wanted


def test_a_claim_that_is_answered_again_leaves_out_what_is_gone(store: JobStore) -> None:
    """Its answer was lost for so long that others have rendered a job, and its caller has deleted it."""
    gone, there = submit(store), submit(store)
    first = store.claim("w1", ["srpo"], nonce="once").batch.jobs
    assert store.complete(first[0], result(first[0]))
    assert store.delete(gone)

    assert ids(store.claim("w1", ["srpo"], nonce="once").batch.jobs) == [there]
    assert store.complete(first[1], result(first[1]))
    assert store.delete(there)
    assert store.claim("w1", ["srpo"], nonce="once").batch.jobs == ()


def test_a_claim_that_is_answered_again_keeps_no_prompt(store: JobStore, client: redis.Redis) -> None:
    """The worker's last claim is kept for as long as it makes no other, and that may be long after its jobs' end."""
    submit(store, prompt="a secret fox")
    (job,) = store.claim("w1", ["srpo"], nonce="once").batch.jobs

    assert job.request.prompt == "a secret fox"
    assert "secret" not in str(client.hgetall(redis_keys.worker("w1")))


def test_a_worker_that_renders_is_given_what_fits_but_not_before_its_turn(store: JobStore) -> None:
    submit(store)
    rendered = take_one(store)
    other, fitting = submit(store, width=512), submit(store)
    capacity = Capacity(3, a_request().batch_key, [held(rendered)], claims_ahead=True)

    before = store.claim("w1", ["srpo"], capacity)
    assert (before.batch.jobs, before.is_deferred) == ((), True)
    assert take_one(store, "w2").id == other

    after = store.claim("w1", ["srpo"], capacity)
    assert (ids(after.batch.jobs), after.is_deferred) == ([fitting], False)


def test_a_deferred_claim_takes_no_turn(store: JobStore) -> None:
    """Low priority comes first once in eight claims, however often others looked in vain."""
    submit(store, width=512)
    low = submit(store, priority="low")
    capacity = Capacity(1, a_request().batch_key, claims_ahead=True)

    assert all(store.claim("w1", ["srpo"], capacity).is_deferred for _ in range(20))

    assert low not in ids(take(store))


def test_a_worker_that_renders_leaves_jobs_to_idle_workers(store: JobStore) -> None:
    store.renew("w2", FACTS, [])
    capacity = Capacity(claims_ahead=True)
    first, second = submit(store), submit(store)

    assert len(store.claim("w1", ["srpo"], capacity).batch.jobs) == 1, "one is left for the other worker"
    assert store.claim("w1", ["srpo"], capacity).is_deferred
    assert {record(store, job_id).state for job_id in (first, second)} == {State.CREATED, State.PROCESSING}


def test_a_job_that_may_have_killed_a_worker_waits_for_one_that_holds_nothing(
    store: JobStore, client: redis.Redis
) -> None:
    returned = submit(store)
    take_one(store)
    lose(client, store, returned)
    claim = store.claim("w1", ["srpo"], Capacity(held=[held(Claimed("x", 1, 1, a_request()))]))
    assert (claim.batch.jobs, claim.is_deferred) == ((), True)

    (job,) = take(store)

    assert (job.id, job.must_be_alone) == (returned, True)


def test_a_crash_counts_for_none_of_the_jobs_that_a_worker_held(store: JobStore, client: redis.Redis) -> None:
    """The second was claimed while the first was rendered."""
    submit(store)
    first = take_one(store)
    submit(store, width=512)
    (second,) = store.claim("w1", ["srpo"], Capacity(held=[held(first)], claims_ahead=True)).batch.jobs

    assert lose(client, store) == 2

    assert [record(store, job.id).attempt for job in (first, second)] == [0, 0]
    assert [(job.attempt, job.must_be_alone) for job in (take_one(store), take_one(store, "w2"))] == [(1, True)] * 2


def test_a_worker_without_a_checker_leaves_what_is_to_be_checked_to_one_that_has_one(store: JobStore) -> None:
    """They were accepted in the moment before it began; at the head of the queue as well as beside a batch's first."""
    store.renew("w1", FACTS, [])
    store.renew("w2", FACTS | {"safety": "off"}, [])
    checked = [submit(store), submit(store)]
    unchecked = [submit(store, safety=False), submit(store, safety=False)]

    assert ids(take(store, "w2")) == unchecked
    assert take(store, "w2") == ()
    assert [*ids(take(store, "w1")), *ids(take(store, "w1"))] == checked


def test_a_worker_without_a_checker_takes_what_no_other_could_check(store: JobStore) -> None:
    """It fails them, and says so: nobody else would ever take them."""
    store.renew("w1", FACTS, [])
    store.renew("w2", FACTS | {"safety": "off"}, [])
    store.renew("w3", FACTS | {"models": "kontext"}, [])
    job_id = submit(store)

    store.renew("w1", FACTS | {"state": "draining"}, [])
    assert take(store, "w2") == ()
    store.remove_worker("w1", ["srpo"])

    assert ids(take(store, "w2")) == [job_id]
