"""Claiming: what makes a batch, whose turn it is, and that no two workers get the same job."""

from __future__ import annotations

from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
import redis

from farm.domain.job import State
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from tests.service.jobstore.jobs import (
    FACTS,
    end_delays,
    events,
    ids,
    lose,
    names,
    new_job,
    record,
    result,
    state,
    submit,
    take,
    take_one,
)


def test_a_claim_hands_over_what_rendering_needs(store: JobStore) -> None:
    job_id = submit(store, prompt='ünï "x" \\ 🦊', images=2, seed=9)

    job = take_one(store)

    assert (job.id, job.attempt, job.request) == (job_id, 1, record(store, job_id).request)
    assert job.fence > 0


def test_a_claimed_job_is_processing(store: JobStore, client: redis.Redis) -> None:
    submit(store)
    job = take_one(store)

    seen = record(store, job.id)

    assert (seen.state, seen.attempt, seen.fence, seen.step) == (State.PROCESSING, 1, job.fence, 0)
    assert seen.started_us >= seen.created_us > 0
    assert events(client, job.id) == [(1, "created"), (2, "processing")]


def test_nothing_waiting_is_an_empty_batch(store: JobStore) -> None:
    claim = store.claim("w1", ["srpo"])

    assert (claim.batch.jobs, claim.waiting, claim.idle_workers) == ((), 0, 0)


def test_a_batch_has_at_most_four_images(store: JobStore) -> None:
    wanted = [submit(store) for _ in range(5)]

    assert [ids(take(store)), ids(take(store))] == [wanted[:4], wanted[4:]]


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


@pytest.mark.parametrize("change", [{"width": 257}, {"height": 257}, {"acceleration": "high"}])
def test_jobs_that_disagree_share_no_batch(store: JobStore, change: dict[str, Any]) -> None:
    submit(store)
    submit(store, **change)

    assert [len(take(store)), len(take(store))] == [1, 1]


def test_jobs_of_two_models_share_no_batch(store: JobStore) -> None:
    submit(store)
    submit(store, model="kontext")

    batches = [store.claim("w1", ["srpo", "kontext"]).batch.jobs for _ in range(2)]

    assert [[job.request.model for job in batch] for batch in batches] == [["srpo"], ["kontext"]]


def test_a_worker_gets_only_what_it_serves(store: JobStore) -> None:
    submit(store, model="kontext")

    assert take(store) == ()
    assert len(store.claim("w1", ["kontext"]).batch.jobs) == 1


def test_prompts_seeds_guidance_steps_and_formats_may_differ(store: JobStore) -> None:
    submit(store)
    submit(store, prompt="an owl", seed=8, guidance=9.0, steps=5, output_format="png", safety=False)

    assert len(take(store)) == 2


def test_jobs_of_several_callers_share_a_batch(store: JobStore) -> None:
    wanted = {submit(store, "ada"), submit(store, "bob")}

    assert set(ids(take(store))) == wanted


def test_one_callers_jobs_start_in_the_order_of_their_coming(store: JobStore) -> None:
    wanted = [submit(store, images=4) for _ in range(5)]

    assert [take_one(store).id for _ in range(5)] == wanted


def test_a_bulk_does_not_hold_up_anothers_single_image(store: JobStore) -> None:
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


def test_a_bulk_for_one_model_does_not_hold_up_a_single_image_of_another(store: JobStore) -> None:
    for _ in range(50):
        submit(store, "bulk", images=4)
    single = submit(store, "single", model="kontext")

    batches = [ids(store.claim("w1", ["srpo", "kontext"]).batch.jobs) for _ in range(2)]

    assert [single] in batches


def test_callers_take_turns_over_all_models_of_a_worker(store: JobStore) -> None:
    """Whoever spreads its work over models has no more of the worker than who keeps to one."""
    for _ in range(12):
        submit(store, "spread", images=4)
        submit(store, "spread", images=4, model="kontext-edit")
        submit(store, "plain", images=4, model="kontext")
    models = ["srpo", "kontext", "kontext-edit"]

    claimed = [record(store, store.claim("w1", models).batch.jobs[0].id).caller for _ in range(12)]

    assert claimed.count("plain") == 6


def test_who_was_away_has_saved_nothing_up_over_models(store: JobStore) -> None:
    for _ in range(20):
        submit(store, "busy", images=4)
    models = ["srpo", "kontext"]
    for _ in range(10):
        store.claim("w1", models)
    for _ in range(10):
        submit(store, "fresh", images=4, model="kontext")

    claimed = [record(store, store.claim("w1", models).batch.jobs[0].id).caller for _ in range(8)]

    assert claimed.count("fresh") in (4, 5)


def test_what_was_taken_back_goes_before_the_jobs_of_other_models(store: JobStore, client: redis.Redis) -> None:
    lost = submit(store, "busy", images=4)
    for _ in range(3):
        submit(store, "busy", images=4)
    models = ["srpo", "kontext"]
    store.claim("w1", models)
    submit(store, "fresh", images=4, model="kontext")
    lose(client, store)

    assert ids(store.claim("w1", models).batch.jobs) == [lost]


def test_turns_are_by_the_work_asked_for(store: JobStore) -> None:
    """Ada asks for four times the steps a job, so that three or four of bob's jobs start for each of hers."""
    for _ in range(8):
        submit(store, "ada", images=4, steps=40)
    for _ in range(32):
        submit(store, "bob", images=4, steps=10)

    callers = Counter(record(store, take_one(store).id).caller for _ in range(20))

    assert callers["ada"] == pytest.approx(4, abs=1)


def test_who_was_away_has_saved_nothing_up(store: JobStore) -> None:
    """Bob comes back after ada rendered alone for long: they share from now on, bob does not catch up first."""
    submit(store, "bob", images=4)
    for _ in range(40):
        submit(store, "ada", images=4)
    for _ in range(20):
        take_one(store)
    for _ in range(10):
        submit(store, "bob", images=4)

    callers = Counter(record(store, take_one(store).id).caller for _ in range(10))

    assert callers["bob"] in (4, 5, 6)


def test_a_cancelled_job_is_not_charged(store: JobStore) -> None:
    for job_id in [submit(store, "ada", images=4) for _ in range(20)]:
        store.cancel(job_id)
    wanted = submit(store, "ada", images=4)
    for _ in range(3):
        submit(store, "bob", images=4)

    assert wanted in [take_one(store).id for _ in range(2)]


def test_a_cancelled_job_changes_no_order(store: JobStore) -> None:
    """What a caller gets back for it puts no later job of that caller before an earlier one."""
    jobs = [submit(store, images=4) for _ in range(5)]
    for job_id in jobs[:3]:
        store.cancel(job_id)
    later = submit(store, images=4)

    assert [take_one(store).id for _ in range(3)] == [*jobs[3:], later]


def test_normal_jobs_go_first(store: JobStore) -> None:
    low, normal = submit(store, priority="low", images=4), submit(store, images=4)

    assert [take_one(store).id, take_one(store).id] == [normal, low]


def test_low_priority_is_never_starved(store: JobStore) -> None:
    """It has one claim in eight while normal jobs wait."""
    for _ in range(64):
        submit(store, "ada", images=4)
    for _ in range(16):
        submit(store, "bob", images=4, priority="low")

    priorities = Counter(record(store, take_one(store).id).priority for _ in range(64))

    assert priorities == {"normal": 56, "low": 8}


def test_a_lost_answer_brings_the_same_jobs_again(store: JobStore, client: redis.Redis) -> None:
    """The client sends the same claim again; the script knows it by its nonce."""
    for _ in range(8):
        submit(store)
    terms = (1_000_000, 4, 1_000_000, 1_000_000, "srpo")

    first = store._scripts.run("claim", "w1", "a nonce", *terms)
    again = store._scripts.run("claim", "w1", "a nonce", *terms)
    other = store._scripts.run("claim", "w1", "another nonce", *terms)

    assert again == first
    assert other != first
    assert client.zcard(redis_keys.LEASES) == 8


def test_idle_workers_share_what_waits(store: JobStore) -> None:
    """Three stand idle when four jobs come: nobody takes all four while the others wait."""
    for worker in ("w1", "w2", "w3"):
        take(store, worker)
    wanted = [submit(store) for _ in range(4)]

    batches = [ids(take(store, worker)) for worker in ("w1", "w2", "w3")]

    assert sorted(len(batch) for batch in batches) == [1, 1, 2]
    assert sorted(job_id for batch in batches for job_id in batch) == sorted(wanted)


def test_a_claim_tells_what_is_left_for_whom(store: JobStore) -> None:
    for worker in ("w1", "w2", "w3"):
        take(store, worker)
    for _ in range(3):
        submit(store, images=4)

    claim = store.claim("w1", ["srpo"])

    assert (claim.waiting, claim.idle_workers) == (2, 2)


def test_who_holds_work_is_not_idle(store: JobStore) -> None:
    take(store, "w1")
    submit(store)
    take(store, "w1")

    assert store.submit(new_job()).idle_workers == 0


def test_what_was_taken_back_goes_first_and_alone(store: JobStore, client: redis.Redis) -> None:
    lost = [submit(store), submit(store)]
    take(store, "dead")
    later = [submit(store) for _ in range(2)]
    assert lose(client, store) == 2

    first, second, last = (ids(take(store)) for _ in range(3))

    assert sorted([first, second]) == sorted([[job_id] for job_id in lost])
    assert last == later


def test_a_job_that_must_be_alone_joins_no_batch(store: JobStore, client: redis.Redis) -> None:
    for _ in range(2):
        submit(store, priority="low")
    take(store, "dead")
    lose(client, store)

    normal = submit(store)

    assert ids(take(store)) == [normal]


def test_what_waits_for_another_try_is_not_claimed(store: JobStore, client: redis.Redis) -> None:
    job_id = submit(store)
    store.fail(take_one(store), "render_failed", "x", retry="again")
    assert (state(store, job_id), take(store)) == (State.CREATED, ())

    end_delays(client)
    store.reap()

    assert ids(take(store)) == [job_id]


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


def test_fences_only_grow(store: JobStore, client: redis.Redis) -> None:
    for _ in range(6):
        submit(store)
    fences = [job.fence for job in take(store)]
    lose(client, store)
    while batch := take(store):
        fences += [job.fence for job in batch]

    assert fences == sorted(set(fences))


def test_a_claim_whose_answer_was_lost_is_answered_again(store: JobStore) -> None:
    """The same jobs under the same fences, and no more of them."""
    for _ in range(6):
        submit(store)

    first = store.claim("w1", ["srpo"], nonce="once")
    again = store.claim("w1", ["srpo"], nonce="once")

    assert again == first
    assert store.claim("w1", ["srpo"]).batch != first.batch


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


@pytest.mark.parametrize("dies", [True, False])
def test_a_worker_that_goes_after_its_first_claims_leaves_nothing(
    store: JobStore, client: redis.Redis, dies: bool
) -> None:
    submit(store)
    assert [len(store.claim("w1", ["srpo"]).batch.jobs) for _ in range(2)] == [1, 0]
    store.renew("w2", FACTS, [])

    if dies:
        client.zadd(redis_keys.WORKERS, {"w1": 0}, xx=True)
        store.reap()
    else:
        store.remove_worker("w1", ["srpo"])

    assert [name for name in names(client) if "w1" in name] == []
    assert client.smembers(redis_keys.idle_workers("srpo")) == {"w2"}


def test_callers_whose_turns_are_long_past_are_forgotten(store: JobStore, client: redis.Redis) -> None:
    """Many came once; one goes on."""
    for number in range(20):
        submit(store, f"once {number}", images=4)
    for _ in range(10):
        submit(store, "ada", images=4)
    while take(store):
        pass

    for kind in ("accepted_vfinish:srpo:normal", "claimed_vfinish:srpo:normal", "worker_vfinish:w1"):
        left = client.zrange(f"{redis_keys.PREFIX}{kind}", 0, -1)
        assert left == ["ada"], kind


def test_who_is_forgotten_is_charged_no_less(store: JobStore, client: redis.Redis) -> None:
    """Ada's turn is past bob's: bob cannot get ahead by being forgotten, nor does ada lose by it."""
    for caller in ("bob", *["ada"] * 6):
        submit(store, caller, images=4)
    while take(store):
        pass
    assert client.zscore(f"{redis_keys.PREFIX}accepted_vfinish:srpo:normal", "bob") is None

    for caller in ("bob", "ada") * 3:
        submit(store, caller, images=4)

    callers = [record(store, take_one(store).id).caller for _ in range(6)]
    # Bob's first is before ada's; the next of each are equal.
    assert [callers[:count].count("ada") for count in (1, 3, 5)] == [0, 1, 2]
