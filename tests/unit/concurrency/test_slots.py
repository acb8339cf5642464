"""Bounded concurrency: a fixed number of slots, and a share of them for each key."""

from __future__ import annotations

import threading

import pytest

from farm.concurrency.slots import Slots
from farm.domain.errors import ConcurrencyLimitReached
from tests.farms import wait_for


def test_one_caller_has_at_most_its_share_and_the_others_the_rest() -> None:
    slots = Slots(4, per_key=2)

    assert [slots.acquire("ada") for _ in range(3)] == [True, True, False]
    assert [slots.acquire("bob") for _ in range(2)] == [True, True]
    assert not slots.acquire("eve")


def test_a_released_slot_may_be_acquired_by_any_key() -> None:
    slots = Slots(2, per_key=1)
    slots.acquire("ada")
    slots.acquire("bob")

    slots.release("bob")

    assert not slots.acquire("ada")
    assert slots.acquire("eve")
    assert slots.free == 0


def test_several_are_held_at_once_or_none() -> None:
    slots = Slots(10, per_key=6)

    assert not slots.acquire("ada", 7)
    assert slots.acquire("ada", 6)
    assert not slots.acquire("bob", 5)
    assert slots.free == 4


def test_without_a_share_one_caller_may_have_all() -> None:
    assert Slots(3).acquire("local", 3)


def test_a_caller_without_slots_is_forgotten() -> None:
    slots = Slots(1)
    for caller in map(str, range(100)):
        assert slots.acquire(caller)
        slots.release(caller)

    assert len(slots._held) == 0


def test_a_slot_is_held_until_the_end_of_the_block_even_if_it_fails() -> None:
    slots, free = Slots(1), list[int]()

    def fail() -> None:
        with slots.held(refusal=ConcurrencyLimitReached()):
            free.append(slots.free)
            raise ValueError("no luck")

    with pytest.raises(ValueError, match="no luck"):
        fail()

    assert (free, slots.free) == ([0], 1)


def test_a_block_without_a_slot_is_refused() -> None:
    slots = Slots(1)
    refusal = ConcurrencyLimitReached("come back")

    with (
        slots.held("ada", refusal=refusal),
        pytest.raises(ConcurrencyLimitReached) as raised,
        slots.held("bob", refusal=refusal),
    ):
        pass

    assert raised.value is refusal
    assert slots.free == 1


def test_a_released_slot_goes_to_a_waiting_thread() -> None:
    slots = Slots(1)
    got: list[bool] = []
    slots.acquire("ada")
    waiting = threading.Thread(target=lambda: got.append(slots.acquire("bob", timeout=30)))
    waiting.start()
    wait_for(lambda: slots.waiting == 1)
    assert got == []

    slots.release("ada")
    waiting.join(20)

    assert (got, slots.waiting, slots.free) == ([True], 0, 0)


def test_a_thread_waits_no_longer_than_its_timeout() -> None:
    slots = Slots(1)
    slots.acquire()

    assert not slots.acquire(timeout=0.01)
    assert slots.waiting == 0


def test_few_threads_wait() -> None:
    slots = Slots(1, max_waiting=1)
    slots.acquire("ada")
    waiting = threading.Thread(target=slots.acquire, args=("ada",), kwargs={"timeout": 30})
    waiting.start()
    wait_for(lambda: slots.waiting == 1)

    assert not slots.acquire("bob", timeout=30)
    slots.release("ada")
    waiting.join(20)
