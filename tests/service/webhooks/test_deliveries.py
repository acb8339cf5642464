"""Deliveries in the job store: queued with the change of state, claimed under a lease, ended once, fair."""

from __future__ import annotations

from typing import cast

import pytest
import redis

from farm.domain.delivery import Attempt, Due, Outcome
from farm.domain.job import NewJob, State, Webhook
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.webhooks.store import (
    MAX_ATTEMPTS_PER_CALLER,
    MAX_ATTEMPTS_PER_RECEIVER,
    MAX_FAILURES_IN_A_ROW,
    MAX_KEPT_ATTEMPTS,
    DeliveryStore,
)
from tests.farms import wait_for
from tests.service.jobstore import jobs

HOOK = "https://hook.example:8443/x?y=1"
ALL = frozenset(State)
TRIED = Attempt(at_us=1, seconds=0.5, status=500, answer="no")


@pytest.fixture
def deliveries(client: redis.Redis) -> DeliveryStore:
    return DeliveryStore(client)


def submit(store: JobStore, url: str = HOOK, *, events: frozenset[State] = ALL, caller: str = "ada") -> str:
    new = jobs.new_job(caller, webhook=Webhook(url, events))
    store.submit(new)
    return new.id


def take(deliveries: DeliveryStore, count: int = 64) -> list[Due]:
    return deliveries.claim(count, lease_seconds=60)


def take_one(deliveries: DeliveryStore) -> Due:
    (due,) = take(deliveries)
    return due


def result(deliveries: DeliveryStore) -> list[tuple[str, int]]:
    """Claim and finish everything that is due, one after the other; return events with their sequence numbers."""
    found = []
    while due := take(deliveries, 1):
        deliveries.finish(due[0], Outcome.DELIVERED, TRIED)
        found.append((due[0].event, due[0].sequence))
    return found


def waiting(client: redis.Redis) -> int:
    return int(cast(str | None, client.hget(redis_keys.TOTALS, "webhooks_waiting")) or 0)


def end_leases(client: redis.Redis, due: Due) -> None:
    """Let the leases of the attempts in the queue of `due` expire, without an outcome."""
    line = f"{due.caller} {due.receiver}"
    for name in cast(list[str], client.zrange(f"{redis_keys.PREFIX}delivery_leases:{line}", 0, -1)):
        client.zadd(f"{redis_keys.PREFIX}delivery_leases:{line}", {name: 0})
    client.zadd(redis_keys.DELIVERY_QUEUES, {line: 0})


def test_every_change_of_state_lines_up_its_delivery_in_order(store: JobStore, deliveries: DeliveryStore) -> None:
    job_id = submit(store)
    job = jobs.take_one(store)
    store.complete(job, jobs.result(job))

    assert result(deliveries) == [("created", 1), ("processing", 2), ("completed", 3)]
    assert [item.id for item in deliveries.page("ada", before_us=None, count=9)] == [
        f"{job_id}-{number}" for number in (3, 2, 1)
    ]


def test_only_the_requested_events_are_delivered(store: JobStore, deliveries: DeliveryStore) -> None:
    submit(store, events=frozenset({State.COMPLETED, State.FAILED}))
    job = jobs.take_one(store)
    store.fail(job, "render_failed", "no")

    assert result(deliveries) == [("failed", 3)]


def test_a_job_without_a_webhook_lines_up_nothing(store: JobStore, deliveries: DeliveryStore) -> None:
    jobs.submit(store)

    assert take(deliveries) == []


def test_coming_back_from_a_dead_worker_is_no_news(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore
) -> None:
    job_id = submit(store)
    jobs.take_one(store)
    jobs.lose(client, store, job_id)
    job = jobs.take_one(store, "w2")
    store.complete(job, jobs.result(job))

    assert result(deliveries) == [("created", 1), ("processing", 2), ("completed", 5)]


def test_a_cancelled_job_has_its_delivery(store: JobStore, deliveries: DeliveryStore) -> None:
    job_id = submit(store, events=frozenset({State.FAILED}))
    store.cancel(job_id)

    assert result(deliveries) == [("failed", 2)]


def test_a_leased_delivery_is_not_claimed_until_its_lease_ends(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore
) -> None:
    submit(store)
    first = take_one(deliveries)

    assert take(deliveries) == []

    end_leases(client, first)
    again = take_one(deliveries)
    assert (again.id, again.fence, again.attempts_made) == (first.id, first.fence + 1, 0)


def test_a_courier_that_got_no_answer_is_given_the_same_again(store: JobStore, deliveries: DeliveryStore) -> None:
    """Otherwise lost claims would use up a receiver's capacity until their leases expire."""
    for _ in range(2):
        submit(store)

    given = [deliveries.claim(1, lease_seconds=60, nonce=nonce) for nonce in ("a", "a", "b", "a")]

    assert given[0] == given[1] == given[3]
    assert [len(taken) for taken in given] == [1, 1, 1, 1]
    assert given[2] != given[0]


def test_a_late_courier_records_its_try_and_changes_nothing(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore
) -> None:
    submit(store)
    late = take_one(deliveries)
    end_leases(client, late)
    prompt = take_one(deliveries)

    deliveries.finish(late, Outcome.FAILED, TRIED)
    deliveries.finish(prompt, Outcome.DELIVERED, TRIED)

    delivery = deliveries.get(late.id)
    assert delivery is not None
    assert (delivery.state, len(delivery.attempts)) == (Outcome.DELIVERED, 2)


def test_a_late_success_counts_as_delivered(client: redis.Redis, store: JobStore, deliveries: DeliveryStore) -> None:
    submit(store)
    late = take_one(deliveries)
    end_leases(client, late)
    take_one(deliveries)

    deliveries.finish(late, Outcome.DELIVERED, TRIED)

    delivery = deliveries.get(late.id)
    assert delivery is not None
    assert delivery.state is Outcome.DELIVERED
    end_leases(client, late)
    assert take(deliveries) == []


def test_a_failed_try_is_due_again_after_its_pause(store: JobStore, deliveries: DeliveryStore) -> None:
    submit(store)
    due = take_one(deliveries)

    deliveries.finish(due, Outcome.WAITING, TRIED, pause_seconds=0.3)

    assert take(deliveries) == []
    again = wait_for(lambda: take(deliveries))[0]
    assert (again.id, again.attempts_made) == (due.id, 1)
    delivery = deliveries.get(due.id)
    assert delivery is not None
    assert delivery.attempts == (TRIED,)


@pytest.mark.parametrize("outcome", [Outcome.DELIVERED, Outcome.FAILED, Outcome.DROPPED])
def test_an_ended_delivery_comes_back_only_by_hand(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore, outcome: Outcome
) -> None:
    submit(store)
    due = take_one(deliveries)
    assert waiting(client) == 1
    deliveries.finish(due, outcome, TRIED)
    assert (take(deliveries), waiting(client)) == ([], 0)

    deliveries.redeliver(due.id)
    assert waiting(client) == 1
    again = take_one(deliveries)

    assert (again.id, again.event, again.sequence, again.attempts_made) == (due.id, due.event, due.sequence, 0)
    assert (due.is_manual, again.is_manual) == (False, True)


def test_redelivering_what_is_under_way_doubles_nothing(store: JobStore, deliveries: DeliveryStore) -> None:
    submit(store)
    due = take_one(deliveries)

    deliveries.redeliver(due.id)

    assert take(deliveries) == []


def test_concurrent_attempts_per_receiver_are_bounded(store: JobStore, deliveries: DeliveryStore) -> None:
    for _ in range(MAX_ATTEMPTS_PER_RECEIVER + 5):
        submit(store, events=frozenset({State.CREATED}))
    under_way = [due for _ in range(MAX_ATTEMPTS_PER_RECEIVER + 5) for due in take(deliveries)]

    assert len(under_way) == MAX_ATTEMPTS_PER_RECEIVER

    deliveries.finish(under_way[0], Outcome.DELIVERED, TRIED)
    assert len(take(deliveries)) == 1


def test_a_receiver_that_keeps_failing_has_one_at_a_time_until_it_is_well(
    store: JobStore, deliveries: DeliveryStore
) -> None:
    for _ in range(2 * MAX_ATTEMPTS_PER_RECEIVER):
        submit(store, events=frozenset({State.CREATED}))
    for _ in range(MAX_FAILURES_IN_A_ROW):
        deliveries.finish(take_one(deliveries), Outcome.FAILED, TRIED)

    probe = take_one(deliveries)
    assert take(deliveries) == []

    deliveries.finish(probe, Outcome.DELIVERED, TRIED)
    assert len([due for _ in range(MAX_ATTEMPTS_PER_RECEIVER) for due in take(deliveries)]) == MAX_ATTEMPTS_PER_RECEIVER


def test_a_failure_of_news_that_are_dropped_later_is_forgotten(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore
) -> None:
    submit(store, events=frozenset({State.PROCESSING, State.COMPLETED}))
    job = jobs.take_one(store)
    news = take_one(deliveries)
    store.complete(job, jobs.result(job))
    deliveries.finish(take_one(deliveries), Outcome.DELIVERED, TRIED)
    deliveries.finish(news, Outcome.WAITING, TRIED)
    assert client.hlen(redis_keys.DELIVERY_FAILURES) == 1

    deliveries.finish(take_one(deliveries), Outcome.DROPPED)

    assert client.hlen(redis_keys.DELIVERY_FAILURES) == 0


def test_a_receiver_with_a_backlog_does_not_delay_others(store: JobStore, deliveries: DeliveryStore) -> None:
    for _ in range(50):
        submit(store, "https://slow.example/")
    submit(store, "https://quick.example/", events=frozenset({State.CREATED}))

    assert {due.receiver for due in take(deliveries)} == {"https://slow.example", "https://quick.example"}


def test_many_dead_receivers_do_not_delay_a_living_one(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore
) -> None:
    for number in range(100):
        submit(store, f"https://dead-{number}.example/", events=frozenset({State.CREATED}), caller=f"c{number}")
    for _ in range(100):
        take(deliveries, 1)
    for number in range(100):
        submit(store, f"https://dead-{number}.example/", events=frozenset({State.CREATED}), caller=f"c{number}")
        client.hset(
            f"{redis_keys.PREFIX}delivery_failures", f"c{number} https://dead-{number}.example", MAX_FAILURES_IN_A_ROW
        )
    submit(store, "https://well.example/", events=frozenset({State.CREATED}))

    (due,) = take(deliveries, 1)
    assert due.receiver == "https://well.example"


def test_callers_do_not_wait_for_one_another_at_one_receiver(store: JobStore, deliveries: DeliveryStore) -> None:
    for _ in range(2 * MAX_ATTEMPTS_PER_RECEIVER):
        submit(store, caller="eve")
    for _ in range(2 * MAX_ATTEMPTS_PER_RECEIVER):
        take(deliveries)
    submit(store, caller="ada")

    assert take_one(deliveries).caller == "ada"


def test_concurrent_attempts_per_caller_are_bounded(store: JobStore, deliveries: DeliveryStore) -> None:
    for number in range(MAX_ATTEMPTS_PER_CALLER + 10):
        submit(store, f"https://r{number}.example/", events=frozenset({State.CREATED}), caller="eve")
    submit(store, "https://well.example/", events=frozenset({State.CREATED}))

    under_way = take(deliveries, 100)
    assert [due.caller for due in under_way].count("eve") == MAX_ATTEMPTS_PER_CALLER
    assert [due.caller for due in under_way].count("ada") == 1

    for due in under_way:
        deliveries.finish(due, Outcome.DELIVERED, TRIED)
    assert len(wait_for(lambda: take(deliveries, 100))) == 10


def test_a_lost_try_is_not_held_up_by_one_that_waits_for_long(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore
) -> None:
    submit(store, events=frozenset({State.CREATED}))
    deliveries.finish(take_one(deliveries), Outcome.WAITING, TRIED, pause_seconds=36000)
    lost_id = submit(store, events=frozenset({State.CREATED}))
    deliveries.claim(1, lease_seconds=0.2)

    again = wait_for(lambda: take(deliveries))[0]
    assert again.job == lost_id


def test_the_outcome_of_a_try_is_recorded_once(client: redis.Redis, store: JobStore, deliveries: DeliveryStore) -> None:
    submit(store)
    due = take_one(deliveries)
    for _ in range(3):
        deliveries.finish(due, Outcome.WAITING, TRIED, pause_seconds=60)

    delivery = deliveries.get(due.id)
    assert delivery is not None
    assert (len(delivery.attempts), client.hget(redis_keys.TOTALS, "webhook_attempts:retry")) == (1, "1")


def test_only_the_last_tries_are_kept(store: JobStore, deliveries: DeliveryStore) -> None:
    submit(store)
    for number in range(MAX_KEPT_ATTEMPTS + 5):
        deliveries.finish(take_one(deliveries), Outcome.WAITING, Attempt(number, 0.1, 500))

    (delivery,) = deliveries.page("ada", before_us=None, count=9)
    assert [attempt.at_us for attempt in delivery.attempts] == list(range(5, MAX_KEPT_ATTEMPTS + 5))


def test_a_delivery_redelivered_during_an_attempt_is_repeated_if_that_failed(
    store: JobStore, deliveries: DeliveryStore
) -> None:
    submit(store, events=frozenset({State.CREATED}))
    first = take_one(deliveries)
    deliveries.redeliver(first.id)
    deliveries.finish(first, Outcome.FAILED, TRIED)

    again = take_one(deliveries)
    deliveries.redeliver(again.id)
    deliveries.finish(again, Outcome.DELIVERED, TRIED)
    assert (again.id, again.is_manual, take(deliveries)) == (first.id, True, [])


def test_an_expired_job_is_kept_until_its_terminal_webhook_is_delivered(
    store: JobStore, deliveries: DeliveryStore
) -> None:
    job_id = submit(store, events=frozenset({State.FAILED}))
    store.cancel(job_id)

    assert not store.forget(job_id)
    deliveries.finish(take_one(deliveries), Outcome.DELIVERED, TRIED)

    assert store.forget(job_id)
    assert store.get(job_id) is None


def test_deliveries_that_one_script_lines_up_are_shown_page_by_page(store: JobStore, deliveries: DeliveryStore) -> None:
    for _ in range(4):
        submit(store, events=frozenset({State.PROCESSING}))
    jobs.take(store)

    shown, before = [], None
    for _ in range(4):
        (item,) = deliveries.page("ada", before_us=before, count=1)
        shown.append(item.id)
        before = item.created_us
    assert len(set(shown)) == 4


def test_a_deleted_jobs_deliveries_are_forgotten(
    client: redis.Redis, store: JobStore, deliveries: DeliveryStore
) -> None:
    before = jobs.names(client)
    job_id = submit(store)
    deliveries.finish(take_one(deliveries), Outcome.WAITING, TRIED)
    take_one(deliveries)
    store.cancel(job_id)
    store.delete(job_id)

    assert take(deliveries) == []
    assert deliveries.page(None, before_us=None, count=9) == []
    assert waiting(client) == 0
    assert client.hlen(f"{redis_keys.PREFIX}delivery_failures") == 0
    left = [name for name in jobs.names(client) - before if client.ttl(name) == -1]
    assert not [name for name in left if "deliver" in name or job_id in name]


def test_a_test_belongs_to_no_job_and_is_forgotten(store: JobStore, deliveries: DeliveryStore) -> None:
    name = deliveries.enqueue_test("t" * 36, caller="ada", url=HOOK, receiver="https://hook.example:8443")

    due = take_one(deliveries)
    assert (due.id, due.url, due.event) == (name, HOOK, "test")
    store.delete("t" * 36)
    assert deliveries.get(name) is None


def test_callers_see_their_own_deliveries_only(store: JobStore, deliveries: DeliveryStore) -> None:
    submit(store, caller="ada")
    submit(store, caller="bob")

    assert {item.caller for item in deliveries.page("ada", before_us=None, count=9)} == {"ada"}
    assert {item.caller for item in deliveries.page(None, before_us=None, count=9)} == {"ada", "bob"}


def test_a_new_job_keeps_its_webhook(store: JobStore) -> None:
    new: NewJob = jobs.new_job(webhook=Webhook(HOOK, frozenset({State.FAILED})))
    store.submit(new)

    assert jobs.record(store, new.id).webhook == new.order.webhook
