"""API keys in Redis: shown once, stored as digests, and their callers."""

from __future__ import annotations

import pytest
import redis

from farm.auth.api_keys import ApiKeyStore, Caller
from farm.domain.errors import StoreUnavailable
from farm.jobstore.connection import connect
from tests.service.jobstore.jobs import names


@pytest.fixture
def callers(client: redis.Redis) -> ApiKeyStore:
    return ApiKeyStore(client)


def test_a_key_identifies_its_caller(callers: ApiKeyStore) -> None:
    key = callers.create("ada")

    assert callers.identify(key) == Caller("ada", is_admin=False)


def test_an_admins_key_says_so(callers: ApiKeyStore) -> None:
    assert callers.identify(callers.create("root", is_admin=True)) == Caller("root", is_admin=True)


def test_two_keys_of_one_name_are_one_caller(callers: ApiKeyStore) -> None:
    first, second = callers.create("ada"), callers.create("ada")

    assert first != second
    assert callers.identify(first) == callers.identify(second) == Caller("ada")


def test_a_key_is_nowhere_in_redis(callers: ApiKeyStore, client: redis.Redis) -> None:
    _, _, secret = callers.create("ada").split("_", 2)

    kept = str([client.hgetall(name) if client.type(name) == "hash" else name for name in client.scan_iter()])

    assert "digest" in kept
    assert secret not in kept
    assert secret not in str(list(client.scan_iter()))


@pytest.mark.parametrize(
    "wrong",
    ["", "x", "farm_", "ключ", "farm_00000000_" + "a" * 43, "Bearer farm_00000000_" + "a" * 43, "farm_" + "a" * 200],
)
def test_an_invalid_key_identifies_no_caller(callers: ApiKeyStore, wrong: str) -> None:
    callers.create("ada")

    assert callers.identify(wrong) is None


def test_a_key_that_is_nearly_right_is_wrong(callers: ApiKeyStore) -> None:
    key, other = callers.create("ada"), callers.create("bob")
    last = "A" if key[-1] != "A" else "B"

    for wrong in (key[:-1], key + "A", key[:-1] + last, key[:13] + other[13:], key.upper(), f" {key}", f"{key}\n"):
        assert callers.identify(wrong) is None


def test_a_revoked_key_identifies_no_caller(callers: ApiKeyStore) -> None:
    revoked, kept = callers.create("ada"), callers.create("bob")

    assert callers.revoke("ada") == 1

    assert callers.identify(revoked) is None
    assert callers.identify(kept) == Caller("bob")


def test_one_of_two_keys_of_a_name_can_be_revoked_by_its_id(callers: ApiKeyStore) -> None:
    revoked, kept = callers.create("ada"), callers.create("ada")

    assert callers.revoke(revoked.split("_")[1]) == 1

    assert (callers.identify(revoked), callers.identify(kept)) == (None, Caller("ada"))


def test_revoking_leaves_nothing(callers: ApiKeyStore, client: redis.Redis) -> None:
    callers.create("ada")
    callers.create("ada")

    assert callers.revoke("ada") == 2

    assert callers.revoke("ada") == 0
    assert names(client) == set()


def test_the_list_is_by_name_and_shows_no_secret(callers: ApiKeyStore) -> None:
    keys = [callers.create("eve"), callers.create("ada", is_admin=True)]

    listed = callers.all()

    assert [(key.name, key.is_admin) for key in listed] == [("ada", True), ("eve", False)]
    assert not any(key.split("_", 2)[2] in str(listed) for key in keys)


@pytest.mark.parametrize("name", ["", " ", "a b", "a:b", "-a", ".a", "a/b", "é", "a\n", "a" * 65])
def test_a_name_is_a_name(callers: ApiKeyStore, client: redis.Redis, name: str) -> None:
    with pytest.raises(ValueError, match="a name has"):
        callers.create(name)

    assert names(client) == set()


def test_a_store_that_does_not_answer_is_no_wrong_key() -> None:
    """Otherwise an outage would look like an invalid key."""
    callers = ApiKeyStore(connect("unix:///nowhere/socket"))

    with pytest.raises(StoreUnavailable):
        callers.identify("farm_00000000_" + "a" * 43)
