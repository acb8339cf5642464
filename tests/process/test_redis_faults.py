"""Whole farms on a Redis that is frozen, full, cut off or slow: all calls are answered, nothing is lost, all ends."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial

import pytest

from tests.farms import Answer, wait_for
from tests.partitioned_farm import (
    LEASE,
    WORKERS,
    SpreadFarm,
    calling,
    demote,
    fill,
    freeze,
    kill,
    kill_all_connections,
    let_wires_die,
    lose_all_wake_ups,
    pause,
    refuse_writes,
    revoke_rights,
    spread_farm,
    stay,
    works_again,
)
from tests.webhook_receiver import Receiver

#: Its timing needs the machine for itself.
pytestmark = pytest.mark.alone

FAULTS = (
    *(kill_all_connections, lose_all_wake_ups, pause, freeze, kill),
    *(refuse_writes, fill, demote, revoke_rights),
)


@pytest.fixture(scope="module")
def standing() -> Iterator[tuple[SpreadFarm, Receiver]]:
    with spread_farm() as both:
        yield both


@pytest.fixture
def farm(standing: tuple[SpreadFarm, Receiver]) -> SpreadFarm:
    """Return the farm once it has got over what an earlier test did to it."""
    wait_for(standing[0].is_warm, seconds=60, what="a warm farm")
    return standing[0]


@pytest.fixture
def receiver(standing: tuple[SpreadFarm, Receiver]) -> Receiver:
    return standing[1]


# The wires


@pytest.mark.timeout(300)
def test_dead_connections_are_left_for_good_ones(farm: SpreadFarm, receiver: Receiver) -> None:
    with calling(farm, receiver):
        let_wires_die(farm)
        works_again(farm, receiver)


@pytest.mark.full
def test_a_worker_that_is_cut_off_for_longer_than_its_lease_does_no_harm(farm: SpreadFarm, receiver: Receiver) -> None:
    """The other one takes over what it had; when it is back, it works again."""
    with calling(farm, receiver):
        farm.wires["worker 1"].cut()
        stay(LEASE + 3)
        farm.wires["worker 1"].heal()
        works_again(farm, receiver)


@pytest.mark.full
@pytest.mark.parametrize("edge", ["api", *WORKERS, "webhooks"])
@pytest.mark.timeout(240)
def test_a_process_that_is_cut_off_for_half_a_minute_comes_back(
    farm: SpreadFarm, receiver: Receiver, edge: str
) -> None:
    with calling(farm, receiver):
        farm.wires[edge].cut()
        stay(30)
        farm.wires[edge].heal()
        works_again(farm, receiver)


@pytest.mark.full
@pytest.mark.timeout(240)
def test_wires_that_tear_again_and_again(farm: SpreadFarm, receiver: Receiver) -> None:
    with calling(farm, receiver):
        for wire in farm.wires.values():
            wire.torn = 0.05
        stay(15)


@pytest.mark.full
@pytest.mark.timeout(240)
def test_a_redis_that_is_far_away(farm: SpreadFarm, receiver: Receiver) -> None:
    with calling(farm, receiver):
        for wire in farm.wires.values():
            wire.delay = 0.1
        stay(15)


# The server


@pytest.mark.timeout(240)
def test_whatever_befalls_redis_everything_goes_on(farm: SpreadFarm, receiver: Receiver) -> None:
    """Each fault in turn, while jobs come and are rendered. No process ends: weights take minutes to load."""
    before = farm.warm_workers
    with calling(farm, receiver):
        for fault in (lose_all_wake_ups, kill_all_connections, refuse_writes):
            fault(farm)
            works_again(farm, receiver)
    wait_for(lambda: farm.warm_workers == before, what="the next heartbeat of each worker")


@pytest.mark.full
@pytest.mark.timeout(400)
def test_whatever_befalls_redis_again_and_again(farm: SpreadFarm, receiver: Receiver) -> None:
    before = farm.warm_workers
    with calling(farm, receiver) as caller:
        for fault in 2 * FAULTS:
            fault(farm)
            works_again(farm, receiver)
    assert caller.refusals[429] > 0
    wait_for(lambda: farm.warm_workers == before, what="the next heartbeat of each worker")


def test_at_four_fifths_of_its_memory_nothing_new_is_taken_and_what_is_there_ends(
    farm: SpreadFarm, receiver: Receiver
) -> None:
    ids = [farm.submit(num_inference_steps=30) for _ in range(6)]
    limit = int(str(farm.admin.config_get("maxmemory")["maxmemory"]))
    used = int(farm.admin.info("memory")["used_memory"])
    farm.admin.config_set("maxmemory", round(used / 0.88))
    try:
        answer = wait_for(partial(refused, farm), what="a refusal")
        assert answer is not None
        assert (answer.status, answer.json["code"]) == (429, "store_full")
        assert 1 <= int(answer.headers["Retry-After"]) <= 60
        assert {farm.wait_for_end(job_id)["status"] for job_id in ids} == {"completed"}
    finally:
        farm.admin.config_set("maxmemory", limit)
    wait_for(lambda: refused(farm) is None, what="a submit that is accepted")


def refused(farm: SpreadFarm) -> Answer | None:
    """Return the refusal of a submit, if it is refused."""
    body = {"model": "srpo", "prompt": "a fox", "num_inference_steps": 1, "image_size": {"width": 256, "height": 256}}
    answer = farm.call("POST", "/farm/v1/jobs", body)
    return None if answer.status == 202 else answer
