"""Managing keys: by the command on Redis itself, and over HTTP by admins, with the same results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient
from typer.testing import CliRunner

from farm.auth.api_keys import Caller
from farm.bootstrap import Farm
from farm.cli.keys import BadKeyName, NoSuchKey, app
from farm.domain.limits import Limits
from tests.service.api.calls import bearer, post_job, problem

KEYS = "/farm/v1/keys"


class Command:
    """Runs `farm keys` in this process."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir

    def __call__(self, *words: str) -> str:
        done = CliRunner().invoke(app, [*words, "--data-dir", str(self._data_dir)])
        if done.exception and not isinstance(done.exception, SystemExit):
            raise done.exception
        return done.output


@pytest.fixture
def keys(farm: Farm, redis_url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Command:
    monkeypatch.setenv("FARM_REDIS_URL", redis_url)
    return Command(tmp_path)


def test_a_key_is_made_with_limits_and_without(keys: Command, farm: Farm) -> None:
    limited = keys("create", "ada", "--rate", "60", "--waiting", "0", "--images-per-day", "500").strip()
    usual = keys("create", "bob", "--admin").strip()

    assert farm.callers.identify(limited) == Caller("ada", limits=Limits(60, 0, 500))
    assert farm.callers.identify(usual) == Caller("bob", is_admin=True)


def test_limits_are_changed_for_all_keys_of_a_name_and_taken_away_again(keys: Command, farm: Farm) -> None:
    shown = [keys("create", "ada", "--rate", "60").strip() for _ in range(2)]

    assert keys("limit", "ada", "--images-per-day", "9") == "limited: 2\n"
    assert {farm.callers.identify(key) for key in shown} == {Caller("ada", limits=Limits(images_per_day=9))}

    assert keys("limit", shown[0].split("_")[1]) == "limited: 1\n"
    assert farm.callers.identify(shown[0]) == Caller("ada")


def test_the_list_shows_limits_and_no_secret(keys: Command) -> None:
    secret = keys("create", "ada", "--rate", "60", "--waiting", "0").strip().split("_", 2)[2]

    listed = keys("list")

    assert [words for words in ("ada", "60", "no limit") if words not in listed] == []
    assert secret not in listed


@pytest.mark.parametrize("words", [("limit", "nobody", "--rate", "1"), ("revoke", "nobody")])
def test_an_unknown_name_of_a_key_is_refused(keys: Command, words: tuple[str, ...]) -> None:
    with pytest.raises(NoSuchKey, match="nobody"):
        keys(*words)


def test_an_invalid_name_of_a_key_is_refused(keys: Command) -> None:
    with pytest.raises(BadKeyName, match="a b"):
        keys("create", "a b")


# Over HTTP


def test_an_admin_makes_a_key_sees_it_and_takes_it_away(keyed: FlaskClient, farm: Farm, admin: dict[str, str]) -> None:
    made = keyed.post(KEYS, json={"name": "ada", "rate": 1, "waiting": 5}, headers=admin)
    assert made.status_code == 201
    ada = bearer(made.get_json()["key"])
    assert post_job(keyed, headers=ada).status_code == 202
    assert post_job(keyed, headers=ada).status_code == 429

    (shown,) = [key for key in keyed.get(KEYS, headers=admin).get_json()["keys"] if key["name"] == "ada"]
    assert shown | {"created_at": ""} == {
        "id": made.get_json()["key"].split("_")[1],
        "name": "ada",
        "admin": False,
        "rate": 1,
        "waiting": 5,
        "images_per_day": None,
        "created_at": "",
    }

    assert keyed.delete(f"{KEYS}?name=ada", headers=admin).get_json() == {"revoked": 1}
    problem(post_job(keyed, headers=ada), 401)
    assert [key.name for key in farm.callers.all()] == ["root"]


@pytest.mark.parametrize(
    ("body", "field"),
    [
        ({}, "name"),
        ({"name": "a b"}, "name"),
        ({"name": "a", "admin": "yes"}, "admin"),
        ({"name": "a", "rate": -1}, "rate"),
        ({"name": "a", "rate": 2.5}, "rate"),
        ({"name": "a", "images_per_day": "1"}, "images_per_day"),
        ({"name": "a", "digest": "0"}, "digest"),
    ],
)
def test_a_key_that_cannot_be_made_is_refused_by_name(
    keyed: FlaskClient, farm: Farm, admin: dict[str, str], body: dict[str, Any], field: str
) -> None:
    refused = problem(keyed.post(KEYS, json=body, headers=admin), 422)

    assert [error["field"] for error in refused["errors"]] == [field]
    assert len(farm.callers.all()) == 1


def test_only_what_there_is_can_be_revoked(keyed: FlaskClient, admin: dict[str, str]) -> None:
    problem(keyed.delete(KEYS, headers=admin), 422)
    problem(keyed.delete(f"{KEYS}?name=nobody", headers=admin), 404)


@pytest.mark.parametrize("method", ["GET", "POST", "DELETE"])
def test_only_admin_keys_manage_keys(keyed: FlaskClient, farm: Farm, ada: dict[str, str], method: str) -> None:
    problem(keyed.open(f"{KEYS}?name=ada", method=method, json={"name": "eve", "admin": True}, headers=ada), 403)

    assert [key.name for key in farm.callers.all()] == ["ada"]
