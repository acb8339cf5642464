"""Scarce places: so many in all, and a share of them for each caller."""

from __future__ import annotations

from api.admission.slots import CallerSlots


def test_one_caller_has_at_most_its_share_and_the_others_the_rest() -> None:
    places = CallerSlots(4, 2)

    assert [places.take("ada") for _ in range(3)] == [True, True, False]
    assert [places.take("bob") for _ in range(2)] == [True, True]
    assert not places.take("eve")


def test_what_is_given_back_may_be_taken_again_by_anybody() -> None:
    places = CallerSlots(2, 1)
    places.take("ada")
    places.take("bob")

    places.give_back("bob")

    assert not places.take("ada")
    assert places.take("eve")
    assert places.free == 0


def test_several_are_taken_at_once_or_none() -> None:
    places = CallerSlots(10, 6)

    assert not places.take("ada", 7)
    assert places.take("ada", 6)
    assert not places.take("bob", 5)
    assert places.free == 4


def test_without_a_share_one_caller_may_have_all() -> None:
    assert CallerSlots(3).take("local", 3)


def test_who_has_none_is_forgotten() -> None:
    places = CallerSlots(1)
    for caller in map(str, range(100)):
        assert places.take(caller)
        places.give_back(caller)

    assert len(places._taken) == 0
