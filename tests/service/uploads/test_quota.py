"""The upload quota of a caller, in every way to upload; refused bytes take no space."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from farm.bootstrap import Farm
from farm.domain.errors import StorageUnavailable
from farm.jobstore import redis_keys
from tests.service.api.calls import fal_error, gateway_error
from tests.service.api.test_fal_storage import CDN, IN_PARTS, INITIATE, begin, complete, names, path_of, send
from tests.service.api.test_wavespeed_media import FORM, TICKET

#: What a caller may upload here, in bytes.
MAX_BYTES = 100


@pytest.fixture(autouse=True)
def small_quota(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(farm.uploads._quota, "_max_bytes", MAX_BYTES)


@pytest.fixture
def stored(farm: Farm) -> Callable[[], set[str]]:
    """Return a function that lists what was stored since the test began."""
    before = names(farm.storage)
    return lambda: names(farm.storage) - before


def by_cdn(api: FlaskClient, size: int) -> TestResponse:
    return api.post(CDN, data=bytes(size))


def by_ticket(api: FlaskClient, size: int) -> TestResponse:
    return api.put(begin(api)[0], data=bytes(size))


def by_part(api: FlaskClient, size: int) -> TestResponse:
    return api.put(f"{begin(api, IN_PARTS)[0]}/1", data=bytes(size))


def by_form(api: FlaskClient, size: int) -> TestResponse:
    data = {"file": (io.BytesIO(bytes(size)), "a.png")}
    return api.post(FORM, data=data, content_type="multipart/form-data")


def by_wavespeeds_ticket(api: FlaskClient, size: int) -> TestResponse:
    result = api.post(TICKET, json={"filename": "a.png", "size": size}).get_json()["data"]["upload"]
    return api.put(path_of(result["url"]), data=bytes(size), headers=result["headers"])


WAYS = [by_cdn, by_ticket, by_part, by_form, by_wavespeeds_ticket]


def is_refusal(answer: TestResponse) -> bool:
    """Return True if the answer says, in the dialect of its path, that the quota is exceeded."""
    if answer.status_code != 429:
        return False
    result = gateway_error(answer, 429) if answer.request.path.startswith("/api/v3") else fal_error(answer, 429)
    assert "is used up" in result["message"]
    assert result.get("error_code", "upload_quota_exceeded") == "upload_quota_exceeded"
    assert answer.headers["Retry-After"] == "60"
    return True


@pytest.mark.parametrize("way", WAYS)
def test_a_file_may_have_all_that_is_left_and_no_byte_more(
    api: FlaskClient, way: Callable[[FlaskClient, int], TestResponse], stored: Callable[[], set[str]]
) -> None:
    assert is_refusal(way(api, MAX_BYTES + 1))
    assert stored() == set()

    assert way(api, MAX_BYTES).status_code == 200
    assert len(stored()) == 1


class Unreadable(io.RawIOBase):
    """A body that must not be read."""

    def read(self, size: int = -1, /) -> bytes:
        raise AssertionError(size)


def test_an_exhausted_quota_is_refused_before_the_body_is_read(
    api: FlaskClient, stored: Callable[[], set[str]]
) -> None:
    tickets = begin(api)[0], begin(api, IN_PARTS)[0]
    assert by_cdn(api, MAX_BYTES).status_code == 200
    before = stored()

    assert all(is_refusal(api.post(path, json={})) for path in (INITIATE, IN_PARTS))
    assert is_refusal(api.post(TICKET, json={"filename": "a.png", "size": 1}))
    unread: dict[str, Any] = {"wsgi.input": Unreadable(), "CONTENT_LENGTH": "1"}
    for method, path in (("PUT", tickets[0]), ("PUT", f"{tickets[1]}/1"), ("POST", CDN)):
        assert is_refusal(api.open(path, method=method, environ_overrides=unread))
    assert is_refusal(by_form(api, 1))
    assert stored() == before


def test_a_file_that_comes_again_counts_once(api: FlaskClient, farm: Farm) -> None:
    """Clients repeat an upload whose answer was lost."""
    whole, in_parts = begin(api)[0], begin(api, IN_PARTS)[0]
    for _ in range(3):
        assert api.put(whole, data=bytes(MAX_BYTES // 2)).status_code == 200
    for _ in range(3):
        parts = send(api, in_parts, b"x" * (MAX_BYTES // 4), b"y" * (MAX_BYTES // 4))
    assert complete(api, in_parts, parts).status_code == 200

    assert spent(farm) == MAX_BYTES
    assert api.put(whole, data=bytes(MAX_BYTES // 2)).status_code == 200


def test_an_upload_that_could_not_be_stored_does_not_count(
    api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise StorageUnavailable

    with monkeypatch.context() as patched:
        patched.setattr(type(farm.storage), "put_file", fail)
        for way in WAYS:
            assert way(api, MAX_BYTES).status_code == 503

    assert spent(farm) == 0
    assert by_cdn(api, MAX_BYTES).status_code == 200


def test_the_quota_is_counted_per_caller(keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str]) -> None:
    assert keyed.post(CDN, data=bytes(MAX_BYTES), headers=ada).status_code == 200

    assert is_refusal(keyed.post(CDN, data=b"x", headers=ada))
    assert keyed.post(CDN, data=bytes(MAX_BYTES), headers=bob).status_code == 200


def test_the_quota_is_renewed_when_the_uploads_have_expired(api: FlaskClient, farm: Farm) -> None:
    """Repeated refusals do not postpone that."""
    by_cdn(api, MAX_BYTES)
    name = redis_keys.uploaded_bytes("local")
    assert 0 < farm.redis.ttl(name) <= farm.settings.upload_ttl
    farm.redis.expire(name, 1)
    assert is_refusal(by_cdn(api, 1))
    assert farm.redis.ttl(name) <= 1

    farm.redis.delete(name)  # as when its time is over
    assert by_cdn(api, MAX_BYTES).status_code == 200


def spent(farm: Farm) -> int:
    return int(str(farm.redis.get(redis_keys.uploaded_bytes("local"))))
