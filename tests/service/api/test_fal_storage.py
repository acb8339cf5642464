"""`/fal/rest` and `/fal/cdn`: uploads as each of fal's clients sends them, and in no other way."""

from __future__ import annotations

import hashlib
import io
import json
import os
import tempfile
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.connections import slow_client_socket
from api.http import body, upload_body
from farm import clock
from farm.bootstrap import Farm
from farm.dialects import fal_storage
from farm.domain.catalogue import MAX_UPLOAD, MAX_UPLOAD_PARTS
from farm.domain.errors import StoreFull
from farm.jobstore import redis_keys
from farm.storage.storage import Storage, new_upload_key
from farm.uploads import tickets as tickets
from farm.uploads import uploads
from farm.uploads.tickets import Ticket, Tickets
from tests import slow_bodies
from tests.farms import wait_for
from tests.service.api.calls import UNKNOWN_ID, bearer, fal_error, problem
from tests.service.jobstore.jobs import BASE
from tests.service.workers.worker import folder_of

INITIATE = "/fal/rest/storage/upload/initiate"
IN_PARTS = "/fal/rest/storage/upload/initiate-multipart"
TOKEN = "/fal/rest/storage/auth/token"
CDN = "/fal/cdn/files/upload"
CDN_IN_PARTS = "/fal/cdn/files/upload/multipart"
DAY = 86400


def image(kind: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, kind)
    return file.getvalue()


def path_of(url: str) -> str:
    assert url.startswith(f"{BASE}/")
    return url.removeprefix(BASE)


def begin(
    api: FlaskClient, path: str = INITIATE, *, headers: dict[str, str] | None = None, **fields: object
) -> tuple[str, str]:
    """Return the URL to send a file to, and the URL of the stored file."""
    response = api.post(path, json={"content_type": "image/png", "file_name": "a.png"} | fields, headers=headers)
    assert response.status_code == 200, response.text
    assert set(response.get_json()) == {"upload_url", "file_url"}
    return path_of(response.get_json()["upload_url"]), path_of(response.get_json()["file_url"])


def begin_below(api: FlaskClient, headers: dict[str, str]) -> str:
    """Return the URL to which fal's Python client sends the parts of a large file."""
    response = api.post(CDN_IN_PARTS, headers=headers | {"Content-Type": "image/png"})
    assert set(response.get_json()) == {"access_url", "uploadId"}
    return f"{path_of(response.get_json()['access_url'])}/multipart/{response.get_json()['uploadId']}"


def token(api: FlaskClient, headers: dict[str, str] | None = None) -> dict[str, str]:
    """Return the header of a call to the CDN."""
    answer = api.post(f"{TOKEN}?storage_type=fal-cdn-v3", json={}, headers=headers).get_json()
    return {"Authorization": f"{answer['token_type']} {answer['token']}"}


def send(api: FlaskClient, upload: str, *parts: bytes) -> list[dict[str, Any]]:
    """Send parts of a file, the first as number 1, and return their tags."""
    answers = [api.put(f"{upload}/{number}", data=part) for number, part in enumerate(parts, 1)]
    assert {answer.status_code for answer in answers} == {200}
    return [answer.get_json() for answer in answers]


def complete(api: FlaskClient, upload: str, parts: object, **kwargs: Any) -> TestResponse:
    return api.post(f"{upload}/complete", json={"parts": parts}, **kwargs)


def names(storage: Storage) -> set[str]:
    """Return all names in the storage, parts that were not deleted included."""
    return {path.name for path in folder_of(storage).glob("??/*")}


@pytest.fixture
def stored(farm: Farm) -> Callable[[], set[str]]:
    """Return a function that lists what was stored since the test began."""
    before = names(farm.storage)
    return lambda: names(farm.storage) - before


# JavaScript, and Python's second choice: a ticket, then the file


@pytest.mark.parametrize("query", ["", "?storage_type=fal-cdn-v3", "?storage_type=gcs"])
@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_is_put_where_the_ticket_says(api: FlaskClient, query: str, slash: str) -> None:
    upload, file = begin(api, INITIATE + slash + query)
    assert api.get(file).status_code == 404

    put = api.put(upload + slash, data=image(), headers={"Content-Type": "image/png"})

    response = api.get(file, buffered=True)
    assert (put.status_code, put.is_json) == (200, True)
    assert (response.status_code, response.mimetype, response.data) == (200, "image/png", image())


@pytest.mark.parametrize("authorization", [None, "Key whatever", "Bearer x", "Basic !"])
def test_the_ticket_is_all_the_right_there_is(
    keyed: FlaskClient, ada: dict[str, str], authorization: str | None
) -> None:
    """Python's second choice shows its key there, JavaScript nothing."""
    upload, file = begin(keyed, headers=ada)

    response = keyed.put(upload, data=b"x", headers={"Authorization": authorization} if authorization else None)

    assert (response.status_code, keyed.get(file, buffered=True).data) == (200, b"x")


def test_a_ticket_cannot_be_guessed_from_the_files_address(api: FlaskClient) -> None:
    (first, file), (second, _) = begin(api), begin(api)

    assert first != second
    assert len(first.rpartition("/")[2]) >= 43
    assert file.rpartition("/")[2][:32] not in first


def test_an_unknown_ticket_is_404(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    for upload in ("/fal/cdn/upload/x", f"/fal/cdn/upload/{'a' * 43}", "/fal/cdn/upload/%2e%2e", "/fal/cdn/upload/*"):
        fal_error(api.put(upload, data=b"x"), 404)
        fal_error(api.put(f"{upload}/1", data=b"x"), 404)
        fal_error(complete(api, upload, []), 404)
    assert stored() == set()


def test_an_expired_ticket_is_404(api: FlaskClient, farm: Farm, stored: Callable[[], set[str]]) -> None:
    upload, _ = begin(api)
    key = redis_keys.upload(upload.rpartition("/")[2])
    assert 3500 < farm.redis.ttl(key) <= 3600
    farm.redis.pexpire(key, 1)
    wait_for(lambda: not farm.redis.exists(key))

    fal_error(api.put(upload, data=b"x"), 404)
    assert stored() == set()


def test_a_ticket_is_for_one_file_which_may_come_again(api: FlaskClient) -> None:
    upload, file = begin(api)
    assert [api.put(upload, data=b"first").status_code for _ in range(2)] == [200, 200]

    fal_error(api.put(upload, data=b"other"), 403)

    assert api.get(file, buffered=True).data == b"first"


def test_a_ticket_for_one_kind_of_upload_is_refused_for_the_other(
    api: FlaskClient, stored: Callable[[], set[str]]
) -> None:
    whole, _ = begin(api)
    in_parts, _ = begin(api, IN_PARTS)

    fal_error(api.put(f"{whole}/1", data=b"x"), 404)
    fal_error(complete(api, whole, []), 404)
    fal_error(api.put(in_parts, data=b"x"), 404)
    assert stored() == set()


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"content_type": 1}, "content_type"),
        ({"content_type": None}, "content_type"),
        ({"content_type": "a" * 256}, "content_type"),
        ({"file_name": ["a"]}, "file_name"),
        ({"file_name": "a" * 1025}, "file_name"),
        ({"size": 1}, "size"),
    ],
)
def test_a_field_that_is_wrong_is_named(api: FlaskClient, fields: dict[str, object], field: str) -> None:
    for path in (INITIATE, IN_PARTS):
        (detail,) = fal_error(api.post(path, json=fields), 422)["detail"]
        assert detail["loc"] == ["body", field]


@pytest.mark.parametrize("sent", [b"x", b"[]", b"{", b'"a"'])
def test_a_body_that_is_not_an_object_is_refused(api: FlaskClient, sent: bytes) -> None:
    fal_error(api.post(INITIATE, data=sent), 422)


def test_no_body_is_an_empty_one(api: FlaskClient) -> None:
    assert path_of(api.post(INITIATE).get_json()["file_url"]).endswith(".bin")


@pytest.mark.parametrize("path", [INITIATE, IN_PARTS, TOKEN, CDN, CDN_IN_PARTS])
def test_an_unknown_parameter_is_rejected(api: FlaskClient, path: str) -> None:
    (detail,) = fal_error(api.post(f"{path}?region=eu", json={}), 422)["detail"]

    assert detail["loc"] == ["query", "region"]


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "a\0b", "a\r\nb", "%2e%2e/x", "..", "", "ü" * 500])
def test_the_callers_name_for_a_file_is_of_no_use_for_tricks(
    api: FlaskClient, stored: Callable[[], set[str]], name: str
) -> None:
    upload, file = begin(api, file_name=name)
    api.put(upload, data=b"x")
    raw = name.encode("ascii", "ignore").decode().translate({0: None, 10: None, 13: None})
    api.post(CDN, data=b"x", headers={"X-Fal-File-Name": raw})

    assert file.removeprefix("/files/") in stored()
    assert all(len(one.partition("-upload-")[0]) == 32 for one in stored())


def test_the_tolerated_parameters_have_no_effect(api: FlaskClient) -> None:
    """It has no effect: two calls with and without it differ in nothing but their own names."""
    assert set(fal_storage.TOLERATED) == {"storage_type"}
    _, plain = begin(api)
    _, with_all = begin(api, f"{INITIATE}?storage_type=anything")

    assert plain[len("/files/") + 32 :].rpartition(".")[2] == with_all.rpartition(".")[2] == "png"


# Types


@pytest.mark.parametrize(
    ("declared", "content", "extension", "kind"),
    [
        ("image/png", image(), "png", "image/png"),
        ("image/jpeg", image("JPEG"), "jpeg", "image/jpeg"),
        ("image/jpg", image("JPEG"), "jpeg", "image/jpeg"),
        ("IMAGE/WEBP; q=1", image("WEBP"), "webp", "image/webp"),
        ("image/gif", image("GIF"), "bin", "image/gif"),
        ("Text/Plain; charset=UTF-8; x=y", b"hello", "bin", "text/plain; charset=utf-8"),
        ("text/html", b"<script>", "bin", "application/octet-stream"),
        ("text/javascript", b"alert(1)", "bin", "application/octet-stream"),
        ("image/svg+xml", b"<svg/>", "bin", "application/octet-stream"),
        ("nonsense", b"x", "bin", "application/octet-stream"),
        ("text/html", image(), "bin", "application/octet-stream"),
    ],
)
def test_an_image_is_shown_as_one_and_all_else_is_a_download(
    api: FlaskClient, declared: str, content: bytes, extension: str, kind: str
) -> None:
    upload, file = begin(api, content_type=declared)
    api.put(upload, data=content)
    direct = path_of(api.post(CDN, data=content, headers={"Content-Type": declared}).get_json()["access_url"])

    for path in (file, direct):
        response = api.get(path, buffered=True)
        assert (path.rpartition(".")[2], response.content_type, response.data) == (extension, kind, content)
        disposition = response.headers.get("Content-Disposition", "inline")
        assert disposition.partition(";")[0] == ("attachment" if extension == "bin" else "inline")
        assert response.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("content", [b"<html><script>alert(1)</script>", b"\x89PN", image("JPEG")])
def test_a_file_that_only_claims_to_be_an_image_is_a_download(api: FlaskClient, content: bytes) -> None:
    """Its address was known before its bytes. Using it as an image fails with an error."""
    upload, file = begin(api, content_type="image/png")
    api.put(upload, data=content)
    direct = path_of(api.post(CDN, data=content, headers={"Content-Type": "image/png"}).get_json()["access_url"])

    assert (file.endswith(".png"), direct.endswith(".bin")) == (True, True)
    for path in (file, direct):
        for response in (api.get(path, buffered=True), api.head(path), api.get(path, headers={"Range": "bytes=0-1"})):
            assert response.content_type == "application/octet-stream"
            assert response.headers["Content-Disposition"] == "attachment"
            response.close()


@pytest.mark.parametrize(
    ("name", "saved_as"),
    [
        ("hello.txt", "hello.txt"),
        ("../../etc/passwd", "passwd"),
        ("größe 1.txt", "gr%C3%B6%C3%9Fe%201.txt"),
        ("a\"'; filename=b.html", "a%22%27%3B%20filename%3Db.html"),
    ],
)
def test_another_file_is_saved_with_its_name_and_type(api: FlaskClient, name: str, saved_as: str) -> None:
    """Each way of fal's clients, and WaveSpeed's, ends in the same answer."""
    for path in all_uploads(api, name):
        for response in (api.get(path, buffered=True), api.head(path), api.get(path, headers={"Range": "bytes=0-1"})):
            assert response.content_type == "text/plain"
            assert response.headers["Content-Disposition"] == f"attachment; filename*=UTF-8''{saved_as}"
            assert response.headers["X-Content-Type-Options"] == "nosniff"
            response.close()


def all_uploads(api: FlaskClient, name: str) -> Iterator[str]:
    """Upload a text in each way; yield its URL."""
    kind = {"Content-Type": "text/plain"}
    headers = kind | {"X-Fal-File-Name": name.encode().decode("latin-1")}
    upload, file = begin(api, content_type="text/plain", file_name=name)
    api.put(upload, data=b"hello")
    yield file
    upload, file = begin(api, IN_PARTS, content_type="text/plain", file_name=name)
    complete(api, upload, send(api, upload, b"hello"))
    yield file
    yield path_of(api.post(CDN, data=b"hello", headers=headers).get_json()["access_url"])
    begun = api.post(CDN_IN_PARTS, headers=headers).get_json()
    file = path_of(begun["access_url"])
    complete(api, f"{file}/multipart/{begun['uploadId']}", send(api, f"{file}/multipart/{begun['uploadId']}", b"hello"))
    yield file
    fields = {"filename": name, "size": 5, "content_type": "text/plain"}
    ticket = api.post("/api/v3/media/uploads", json=fields).get_json()["data"]
    api.put(path_of(ticket["upload"]["url"]), data=b"hello", headers=kind)
    yield path_of(ticket["download_url"])
    form = {"file": (io.BytesIO(b"hello"), name.replace('"', "%22"), "text/plain")}  # as browsers write it
    answer = api.post("/api/v3/media/upload/binary", data=form, content_type="multipart/form-data").get_json()
    yield path_of(answer["data"]["download_url"])


def test_an_empty_file_is_refused(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    upload, _ = begin(api)
    in_parts, _ = begin(api, IN_PARTS)

    for response in (api.put(upload), api.post(CDN), api.put(f"{in_parts}/1")):
        assert "empty" in fal_error(response, 422)["message"]
    assert stored() == set()


# How long


def later(monkeypatch: pytest.MonkeyPatch, seconds: float) -> None:
    """Set the clock ahead by so much."""
    now_us = clock.now_us
    monkeypatch.setattr(clock, "now_us", lambda: now_us() + round(seconds * 1e6))


def upload_with(api: FlaskClient, headers: dict[str, str]) -> list[str]:
    """Return the URLs of files that were uploaded in each way with these headers."""
    first, file = begin(api, headers=headers)
    api.put(first, data=b"x")
    second, other = begin(api, IN_PARTS, headers=headers)
    complete(api, second, send(api, second, b"x"))
    third = path_of(api.post(CDN, data=b"x", headers=headers).get_json()["access_url"])
    below = api.post(CDN_IN_PARTS, headers=headers).get_json()
    parts = f"{path_of(below['access_url'])}/multipart/{below['uploadId']}"
    complete(api, parts, send(api, parts, b"x"))
    return [file, other, third, path_of(below["access_url"])]


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, DAY),
        ({"X-Fal-Object-Lifecycle": '{"expiration_duration_seconds": 60}'}, 60),
        ({"X-Fal-Object-Lifecycle-Preference": '{"expiration_duration_seconds": 60}'}, 60),
        (dict.fromkeys(fal_storage.LIFECYCLES, '{"expiration_duration_seconds": 60}'), 60),
        ({"X-Fal-Object-Lifecycle": f'{{"expiration_duration_seconds": {DAY}}}'}, DAY),
        ({"X-Fal-Object-Lifecycle": '{"initial_acl": {"default": "allow"}}'}, DAY),
    ],
    ids=["not said", "first header", "second header", "both", "the farm's own", "readable"],
)
def test_a_file_is_gone_when_its_time_is_over(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, headers: dict[str, str], seconds: int
) -> None:
    paths = upload_with(api, headers)
    ages = [api.head(path).cache_control.max_age for path in paths]
    assert all(age is not None and seconds - 30 < age <= seconds for age in ages)

    later(monkeypatch, seconds - 30)
    assert [api.head(path).status_code for path in paths] == [200] * 4
    later(monkeypatch, 31)
    for path in paths:
        problem(api.get(path), 404)


@pytest.mark.parametrize(
    "wish",
    [
        "",
        "x",
        "[]",
        "60",
        '{"expiration_duration_seconds": -1}',
        '{"expiration_duration_seconds": "60"}',
        '{"expiration_duration_seconds": 1.5}',
        '{"initial_acl": {"default": "forbid"}}',
        '{"initial_acl": {"default": "hide"}}',
        '{"initial_acl": {"default": "allow", "rules": [{"user": "x", "decision": "forbid"}]}}',
        f'{{"expiration_duration_seconds": {DAY + 1}}}',
        '{"ttl": 60}',
        "[" * 5000,
    ],
    ids=lambda wish: wish[:40],
)
@pytest.mark.parametrize("name", fal_storage.LIFECYCLES)
def test_a_wish_that_cannot_be_read_or_granted_is_400(
    api: FlaskClient, stored: Callable[[], set[str]], wish: str, name: str
) -> None:
    """Anyone who knows a file's name may read it: a stricter wish would not come true."""
    for path in (INITIATE, IN_PARTS, CDN, CDN_IN_PARTS):
        body = fal_error(api.post(path, json={}, headers={name: wish}), 400)
        assert body["error_type"] == "bad_request"
        assert "X-Fal-Object-Lifecycle" in body["message"]
    assert stored() == set()


def test_a_file_is_not_kept_for_longer_than_the_farm_keeps_files(api: FlaskClient) -> None:
    headers = {"X-Fal-Object-Lifecycle": f'{{"expiration_duration_seconds": {DAY + 1}}}'}

    assert f"allowed: 1 to {DAY}" in fal_error(api.post(CDN, data=b"x", headers=headers), 400)["message"]


def test_an_upload_that_has_expired_on_arrival_is_not_stored(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    """The time of a file begins with its ticket, and may be over before the file has come."""
    brief = {"X-Fal-Object-Lifecycle": '{"expiration_duration_seconds": 60}'}
    whole, late = begin(api, headers=brief)[0], begin(api, headers=brief)[0]
    in_parts = begin(api, IN_PARTS, headers=brief)[0]
    parts = send(api, in_parts, b"x")
    before = stored()
    with slowly(api, late) as answers:
        later(monkeypatch, 61)

    for response in (*answers, api.put(whole, data=b"x"), complete(api, in_parts, parts)):
        assert "already expired" in fal_error(response, 404)["message"]
    assert stored() == before


def test_wishes_that_disagree_are_400(api: FlaskClient) -> None:
    headers = {name: f'{{"expiration_duration_seconds": {60 + len(name)}}}' for name in fal_storage.LIFECYCLES}

    assert "disagree" in fal_error(api.post(CDN, data=b"x", headers=headers), 400)["message"]


# Python's first choice: a token, then the file


def test_a_token_says_all_that_the_client_reads(keyed: FlaskClient, ada: dict[str, str]) -> None:
    answer = keyed.post(f"{TOKEN}?storage_type=fal-cdn-v3", json={}, headers=ada).get_json()

    assert set(answer) == {"token", "token_type", "base_url", "expires_at"}
    assert answer["base_url"] == f"{BASE}/fal/cdn"
    assert answer["expires_at"].endswith("+00:00")
    left = datetime.fromisoformat(answer["expires_at"]) - datetime.now(UTC)
    assert timedelta(minutes=58) < left <= timedelta(hours=1)


def test_a_token_stands_for_its_caller_at_the_cdn_and_nowhere_else(keyed: FlaskClient, ada: dict[str, str]) -> None:
    shown = token(keyed, ada)

    assert keyed.post(CDN, data=b"x", headers=shown).status_code == 200
    for path in (INITIATE, IN_PARTS, TOKEN, "/fal/queue/fal-ai/flux/srpo"):
        fal_error(keyed.post(path, json={}, headers=shown), 401)


def test_the_cdn_takes_a_key_too(keyed: FlaskClient, ada: dict[str, str]) -> None:
    assert keyed.post(CDN, data=b"x", headers=ada).status_code == 200


def test_a_token_ends_with_its_time(
    keyed: FlaskClient, ada: dict[str, str], monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    shown = token(keyed, ada)
    later(monkeypatch, 3601)

    fal_error(keyed.post(CDN, data=b"x", headers=shown), 401)
    assert stored() == set()


def test_a_token_ends_with_its_key(keyed: FlaskClient, farm: Farm, ada: dict[str, str]) -> None:
    shown = token(keyed, ada)
    farm.callers.create("ada")
    assert keyed.post(CDN, data=b"x", headers=shown).status_code == 200

    farm.callers.revoke("ada")

    fal_error(keyed.post(CDN, data=b"x", headers=shown), 401)


def test_a_token_cannot_be_changed(keyed: FlaskClient, farm: Farm, ada: dict[str, str]) -> None:
    """Change its time, its key and each digit of its signature."""
    head, key_id, until, signature = token(keyed, ada)["Authorization"].rsplit("_", 3)
    (other,) = [key.id for key in farm.callers.all() if key.name != "ada"] or [farm.callers.create("bob").split("_")[1]]
    changed = [
        (key_id, str(int(until) + 1), signature),
        (other, until, signature),
        ("00000000", until, signature),
        (key_id, until, signature[:-1] + ("0" if signature[-1] != "0" else "1")),
        (key_id, until, ""),
    ]

    for parts in changed:
        fal_error(keyed.post(CDN, data=b"x", headers={"Authorization": "_".join((head, *parts))}), 401)


def test_a_file_that_was_sent_to_the_cdn_is_there(api: FlaskClient) -> None:
    response = api.post(CDN, data=image(), headers=token(api) | {"Content-Type": "image/png"})

    assert set(response.get_json()) == {"access_url"}
    assert api.get(path_of(response.get_json()["access_url"]), buffered=True).data == image()


# Large files, in parts


def test_parts_come_in_any_order_and_are_put_together_in_theirs(api: FlaskClient, farm: Farm) -> None:
    upload, file = begin(api, IN_PARTS)
    parts = [bytes([number]) * 1000 for number in range(12)]
    named = []
    for number in (7, 12, 1, 2, 11, 3, 10, 4, 9, 5, 8, 6):
        named += [api.put(f"{upload}/{number}", data=parts[number - 1]).get_json()]
    assert api.get(file).status_code == 404

    response = complete(api, upload, named)

    assert response.get_json() == {"access_url": BASE + file}
    assert api.get(file, buffered=True).data == b"".join(parts)


def test_a_part_is_called_the_same_in_body_and_header(api: FlaskClient) -> None:
    upload, _ = begin(api, IN_PARTS)

    response = api.put(f"{upload}/3", data=b"abc")

    digest = hashlib.sha256(b"abc").hexdigest()
    assert response.get_json() == {"partNumber": 3, "etag": digest}
    assert response.headers["ETag"] == f'"{digest}"'


@pytest.mark.parametrize("written", ["{}", '"{}"', 'W/"{}"'])
def test_an_etag_may_be_written_as_in_its_header(api: FlaskClient, written: str) -> None:
    upload, file = begin(api, IN_PARTS)
    (part,) = send(api, upload, b"abc")

    response = complete(api, upload, [{"partNumber": 1, "etag": written.format(part["etag"])}])

    assert (response.status_code, api.get(file, buffered=True).data) == (200, b"abc")


def test_a_part_that_comes_again_takes_the_place_of_the_first(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    upload, file = begin(api, IN_PARTS)
    (old,) = send(api, upload, b"old")
    new = send(api, upload, b"new")
    assert [name.endswith(f"-1-{new[0]['etag'][:16]}.bin") for name in stored()] == [True]

    fal_error(complete(api, upload, [old]), 422)
    assert complete(api, upload, new).status_code == 200

    assert api.get(file, buffered=True).data == b"new"
    assert stored() == {file.removeprefix("/files/")}


def test_a_part_that_comes_again_unchanged_is_no_matter(api: FlaskClient) -> None:
    upload, file = begin(api, IN_PARTS)
    parts = send(api, upload, b"a", b"b")
    assert send(api, upload, b"a") == parts[:1]

    complete(api, upload, parts)

    assert api.get(file, buffered=True).data == b"ab"


@pytest.mark.parametrize(
    "change",
    [
        lambda parts: parts[:2],
        lambda parts: parts[1:],
        lambda parts: [],
        lambda parts: [*parts, {"partNumber": 4, "etag": parts[0]["etag"]}],
        lambda parts: [*parts, parts[0]],
        lambda parts: [parts[0] | {"etag": parts[1]["etag"]}, *parts[1:]],
        lambda parts: [parts[0] | {"etag": ""}, *parts[1:]],
        lambda parts: [parts[0] | {"etag": None}, *parts[1:]],
        lambda parts: [parts[0] | {"partNumber": 0}, *parts[1:]],
        lambda parts: [parts[0] | {"partNumber": "1"}, *parts[1:]],
        lambda parts: [parts[0] | {"size": 1}, *parts[1:]],
        lambda parts: [{"partNumber": number, "etag": "x"} for number in range(1, MAX_UPLOAD_PARTS + 2)],
        lambda parts: None,
        lambda parts: {"1": "x"},
    ],
    ids=range(14),
)
def test_wrong_or_missing_parts_are_refused_and_can_be_mended(
    api: FlaskClient, change: Callable[[list[dict[str, Any]]], object]
) -> None:
    upload, file = begin(api, IN_PARTS)
    parts = send(api, upload, b"a", b"b", b"c")

    (detail, *_) = fal_error(complete(api, upload, change(parts)), 422)["detail"]
    assert detail["loc"][:2] == ["body", "parts"]
    assert api.get(file).status_code == 404

    assert complete(api, upload, parts).status_code == 200


def test_a_gap_between_parts_is_refused(api: FlaskClient) -> None:
    upload, _ = begin(api, IN_PARTS)
    parts = [api.put(f"{upload}/{number}", data=b"x").get_json() for number in (1, 3)]

    assert "part 2 has not arrived" in fal_error(complete(api, upload, parts), 422)["message"]


@pytest.mark.parametrize("number", ["0", "-1", "1001", "10001", "99999999999", "1.5", "one", "\u0661", "%20", "1e2"])
def test_a_part_has_a_number_from_1_on(api: FlaskClient, stored: Callable[[], set[str]], number: str) -> None:
    upload, _ = begin(api, IN_PARTS)

    assert f"1 to {MAX_UPLOAD_PARTS}" in fal_error(api.put(f"{upload}/{number}", data=b"x"), 422)["message"]
    assert stored() == set()


def test_a_complete_file_takes_no_more_parts(api: FlaskClient) -> None:
    upload, file = begin(api, IN_PARTS)
    parts = send(api, upload, b"a", b"b")
    complete(api, upload, parts)

    fal_error(api.put(f"{upload}/1", data=b"x"), 403)
    fal_error(complete(api, upload, parts[:1]), 403)

    assert api.get(file, buffered=True).data == b"ab"


def test_completing_an_upload_twice_gives_the_same_answer(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    upload, file = begin(api, IN_PARTS)
    parts = send(api, upload, b"a", b"b")

    answers = [complete(api, upload, parts) for _ in range(2)]

    assert [answer.get_json() for answer in answers] == [{"access_url": BASE + file}] * 2
    assert stored() == {file.removeprefix("/files/")}


def test_completing_an_upload_again_while_it_is_assembled_says_so(
    api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    """The answer does not say that a part is missing, which the first call has removed."""
    upload, file = begin(api, IN_PARTS)
    parts = send(api, upload, b"a", b"b")
    answers: list[TestResponse] = []
    open_part = farm.storage.open

    def open_after_another_call(*args: Any) -> Any:
        monkeypatch.undo()
        answers.append(complete(api, upload, parts))
        return open_part(*args)

    monkeypatch.setattr(farm.storage, "open", open_after_another_call)
    answers.append(complete(api, upload, parts))

    assert [answer.get_json() for answer in answers] == [{"access_url": BASE + file}] * 2
    assert stored() == {file.removeprefix("/files/")}


def test_parts_together_may_be_as_large_as_a_file(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    for module in ("farm.uploads.uploads", "api.routes.fal_storage"):
        monkeypatch.setattr(f"{module}.MAX_UPLOAD", 10)
    upload, file = begin(api, IN_PARTS)
    parts = send(api, upload, b"1234", b"567890")

    assert "0 bytes" in fal_error(api.put(f"{upload}/3", data=b"x"), 413)["message"]
    assert "4 bytes" in fal_error(api.put(f"{upload}/1", data=b"12345"), 413)["message"]

    complete(api, upload, parts)
    assert stored() == {file.removeprefix("/files/")}


def test_a_part_is_never_handed_out(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    upload, _ = begin(api, IN_PARTS)
    send(api, upload, image())

    (part,) = stored()
    problem(api.get(f"/files/{part}"), 404)


# Large files below their own address, as Python sends them


def test_pythons_parts_go_below_the_files_address(keyed: FlaskClient, ada: dict[str, str]) -> None:
    shown = token(keyed, ada)
    upload = begin_below(keyed, shown)
    answers = [keyed.put(f"{upload}/{number}", data=b"%d" % number, headers=shown) for number in (2, 1)]
    parts = [{"partNumber": 2 - index, "etag": answer.headers["ETag"]} for index, answer in enumerate(answers)]

    assert complete(keyed, upload, parts, headers=shown).status_code == 200

    assert keyed.get(upload.partition("/multipart")[0], buffered=True).data == b"12"


def test_another_callers_upload_looks_like_an_unknown_one(
    keyed: FlaskClient, ada: dict[str, str], bob: dict[str, str], stored: Callable[[], set[str]]
) -> None:
    upload, bobs = begin_below(keyed, token(keyed, ada)), token(keyed, bob)
    other_file = f"/files/{new_upload_key('png', until=9_999_999_999)}/multipart/{upload.rpartition('/')[2]}"

    for address, shown in ((upload, bobs), (other_file, token(keyed, ada)), (upload[:-1] + "_", bobs)):
        texts = [
            fal_error(keyed.put(f"{address}/1", data=b"x", headers=shown), 404)["message"],
            fal_error(complete(keyed, address, [], headers=shown), 404)["message"],
        ]
        assert all("may have expired" in text for text in texts)
    assert stored() == set()


@pytest.mark.parametrize("shown", [None, "Bearer x", "Bearer farmtoken_00000000_9999999999_" + "0" * 64])
def test_below_a_files_address_a_token_is_asked_for(keyed: FlaskClient, ada: dict[str, str], shown: str | None) -> None:
    upload = begin_below(keyed, ada)
    headers = {"Authorization": shown} if shown else {}

    fal_error(keyed.put(f"{upload}/1", data=b"x", headers=headers), 401)
    fal_error(complete(keyed, upload, [], headers=headers), 401)


# Hosts


@pytest.mark.parametrize("host", ["rest.fal.ai", "rest.alpha.fal.ai", "rest.farm.example"])
def test_fals_own_name_of_the_storage_leads_there(api: FlaskClient, host: str) -> None:
    answer = api.post("/storage/upload/initiate", json={}, headers={"Host": host}).get_json()

    assert answer["upload_url"].startswith(f"{BASE}/fal/cdn/upload/")
    assert answer["file_url"].startswith(f"{BASE}/files/")
    assert api.post("/storage/auth/token", json={}, headers={"Host": host}).get_json()["base_url"] == f"{BASE}/fal/cdn"


@pytest.mark.parametrize("host", ["v3.fal.media", "cdn.farm.example"])
def test_fals_own_name_of_the_cdn_leads_there(api: FlaskClient, host: str) -> None:
    """Parts come to a file's own address under every name."""
    named = {"Host": host}
    kept = api.post("/files/upload", data=b"x", headers=named)
    file = path_of(kept.get_json()["access_url"])
    begun = api.post("/files/upload/multipart", headers=named).get_json()
    below = f"{path_of(begun['access_url'])}/multipart/{begun['uploadId']}"

    part = api.put(f"{below}/1", data=b"part", headers=named).get_json()
    ended = complete(api, below, [part], headers=named)

    assert api.get(file, headers=named, buffered=True).data == b"x"
    assert path_of(ended.get_json()["access_url"]) == path_of(begun["access_url"])
    assert api.get(path_of(begun["access_url"]), headers=named, buffered=True).data == b"part"


# Bodies


def test_a_file_larger_than_the_limit_is_413(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    monkeypatch.setattr("api.routes.fal_storage.MAX_UPLOAD", 1000)
    upload, _ = begin(api)

    for response in (api.put(upload, data=b"x" * 1001), api.post(CDN, data=b"x" * 1001)):
        assert "1000 bytes" in fal_error(response, 413)["message"]
    unannounced: dict[str, Any] = {"input_stream": io.BytesIO(b"x" * 1001), "headers": {"Transfer-Encoding": "chunked"}}
    fal_error(api.put(upload, **unannounced, environ_overrides={"wsgi.input_terminated": True}), 413)
    assert stored() == set()
    assert api.put(upload, data=b"x" * 1000).status_code == 200


def test_the_limit_is_200_mebibytes() -> None:
    assert MAX_UPLOAD == 200 * 1024 * 1024


def test_a_body_that_is_cut_off_stores_nothing(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    upload, file = begin(api)
    cut = {"CONTENT_LENGTH": "8"}

    for response in (
        api.put(upload, data=b"half", environ_overrides=cut),
        api.post(CDN, data=b"half", environ_overrides=cut),
    ):
        assert "4 of 8 bytes" in fal_error(response, 400)["message"]
    assert stored() == set()

    api.put(upload, data=b"complete")
    assert api.get(file, buffered=True).data == b"complete"


def test_a_file_is_never_in_memory_as_a_whole(api: FlaskClient) -> None:
    class Counting(io.BytesIO):
        maximum = 0

        def read(self, size: int | None = -1, /) -> bytes:
            piece = super().read(size)
            Counting.maximum = max(Counting.maximum, len(piece))
            return piece

    length = 8 * body.CHUNK_BYTES + 1
    kept = api.post(CDN, environ_overrides={"wsgi.input": Counting(bytes(length)), "CONTENT_LENGTH": str(length)})

    assert api.head(path_of(kept.get_json()["access_url"])).content_length == length
    assert Counting.maximum == body.CHUNK_BYTES


def test_an_upload_leaves_nothing_in_the_data_folder(api: FlaskClient, redis_dir: Any) -> None:
    api.post(CDN, data=b"x")

    assert list((redis_dir / "uploads").iterdir()) == []


def test_a_data_folder_that_cannot_be_written_to_is_503(
    api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch, tmp_path: Any, stored: Callable[[], set[str]]
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setattr(farm.uploads, "_spool", tmp_path / "file")

    response = api.post(CDN, data=b"x")

    assert "image storage" in fal_error(response, 503)["message"]
    assert str(tmp_path) not in response.text


def test_a_full_disk_is_503(api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]) -> None:
    """The error may also come when the file is closed: it is written to /dev/full, which accepts nothing."""
    monkeypatch.setattr(tempfile, "TemporaryFile", lambda **_: os.fdopen(os.open("/dev/full", os.O_RDWR), "w+b"))

    assert "no disk space left" in fal_error(api.post(CDN, data=b"x"), 503)["message"]
    assert stored() == set()


def test_a_disk_that_is_nearly_full_takes_no_uploads(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    """The job store and the images need the rest."""
    monkeypatch.setattr(uploads, "MIN_FREE_BYTES", 2**62)

    assert "no disk space left" in fal_error(api.post(CDN, data=b"x"), 503)["message"]
    assert stored() == set()
    assert stored() == set()


# Many at once


@contextmanager
def standing_still() -> Iterator[dict[str, Any]]:
    """Yield the environment of a request whose body has begun, and stalls."""
    with slow_bodies.pair() as (theirs, ours):
        theirs.sendall(b"ha")
        yield slow_bodies.awaited(ours, 4)


def test_a_file_that_stops_coming_is_given_up(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 0.05)
    for method, path in (("PUT", begin(api)[0]), ("PUT", f"{begin(api, IN_PARTS)[0]}/1"), ("POST", CDN)):
        with standing_still() as environ:
            fal_error(api.open(path, method=method, environ_overrides=environ), 408)
    assert stored() == set()


class Slow(io.RawIOBase):
    """A body of two bytes, the second of which arrives on command."""

    def __init__(self) -> None:
        self.begun = threading.Event()
        self.may_end = threading.Event()

    def read(self, size: int = -1, /) -> bytes:
        if not self.begun.is_set():
            self.begun.set()
            return b"x"
        assert self.may_end.wait(20)
        return b"y"[:size]


@contextmanager
def slowly(api: FlaskClient, upload: str) -> Iterator[list[TestResponse]]:
    """Yield while a file is being uploaded, which is complete at the end of the block; then its answer."""
    slow_bodies, answers = Slow(), list[TestResponse]()
    environ: dict[str, Any] = {"wsgi.input": slow_bodies, "CONTENT_LENGTH": "2"}
    sender = threading.Thread(target=lambda: answers.append(api.put(upload, environ_overrides=environ)))
    sender.start()
    assert slow_bodies.begun.wait(20)
    yield answers
    slow_bodies.may_end.set()
    sender.join(20)


def test_one_upload_too_many_waits_and_then_gets_retry_after(
    open_api: Callable[..., FlaskClient], monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = {"max_uploads": 1, "per_caller": 1, "wait_seconds": 0.1}
    monkeypatch.setattr(upload_body.UploadSlots.__init__, "__kwdefaults__", limits)
    api = open_api()
    with slowly(api, begin(api)[0]) as answers:
        refused = api.post(CDN, data=b"x")

    assert fal_error(refused, 429)["error_type"] == "concurrent_requests_limit"
    assert refused.headers["Retry-After"] == "2"
    assert [answer.status_code for answer in answers] == [200]
    assert api.post(CDN, data=b"x").status_code == 200


def test_parts_that_come_at_once_may_not_be_larger_together(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    for module in ("farm.uploads.uploads", "api.routes.fal_storage"):
        monkeypatch.setattr(f"{module}.MAX_UPLOAD", 3)
    upload, file = begin(api, IN_PARTS)
    with slowly(api, f"{upload}/2") as answers:
        parts = send(api, upload, b"xy")

    assert fal_error(answers[0], 422)["detail"][0]["type"] == "file_too_large"
    assert complete(api, upload, parts).status_code == 200
    assert stored() == {file.removeprefix("/files/")}


def test_a_ticket_may_expire_while_its_file_comes(api: FlaskClient, farm: Farm) -> None:
    """Nothing of it stays in the job store for ever."""
    upload, file = begin(api)
    in_parts, _ = begin(api, IN_PARTS)
    with slowly(api, upload), slowly(api, f"{in_parts}/1"):
        for name in farm.redis.keys("srpo:upload*"):
            farm.redis.delete(name)

    assert api.get(file, buffered=True).data == b"xy"
    assert all(farm.redis.ttl(name) > 0 for name in farm.redis.keys("srpo:upload*"))


def test_a_part_that_was_lost_in_part_makes_no_file(api: FlaskClient, farm: Farm) -> None:
    upload, file = begin(api, IN_PARTS)
    parts = send(api, upload, b"one", b"two")
    (path,) = folder_of(farm.storage).rglob(f"*-2-{parts[1]['etag'][:16]}.bin")
    path.write_bytes(b"t")

    fal_error(complete(api, upload, parts), 503)
    assert api.get(file).status_code == 404
    path.unlink()
    fal_error(complete(api, upload, parts), 404)


def test_tickets_need_room_in_the_job_store(farm: Farm) -> None:
    farm.redis.config_set("maxmemory", 1)
    try:
        with pytest.raises(StoreFull):
            Tickets(farm.redis).issue(Ticket("t", caller="ada", key="k", content_type=""))
    finally:
        farm.redis.config_set("maxmemory", 0)
    assert farm.redis.keys() == []


def test_one_caller_cannot_fill_the_job_store_with_tickets(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tickets, "MAX_TICKETS_PER_CALLER", 2)

    for path in (INITIATE, CDN_IN_PARTS):
        assert keyed.post(path, json={}, headers=ada).status_code == 200
    before = set(farm.redis.keys("srpo:upload:*"))
    for path in (INITIATE, IN_PARTS, CDN_IN_PARTS):
        assert "too many uploads" in fal_error(keyed.post(path, json={}, headers=ada), 429)["message"]

    assert set(farm.redis.keys("srpo:upload:*")) == before
    assert keyed.post(INITIATE, json={}, headers=bob).status_code == 200
    assert all(0 < farm.redis.ttl(name) <= 3600 for name in farm.redis.keys("srpo:uploads_started:*"))


def test_the_type_of_a_file_is_no_long_text(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    """It would lie in the job store."""
    for path in (CDN, CDN_IN_PARTS):
        response = api.post(path, data=b"x" * (path == CDN), headers={"Content-Type": "a" * 256})
        assert "up to 255 characters" in fal_error(response, 400)["message"]
    assert stored() == set()


def test_upload_urls_and_tokens_do_not_name_the_caller(keyed: FlaskClient, farm: Farm) -> None:
    ada = bearer(farm.callers.create("ada-lovelace"))

    texts = [keyed.post(path, json={}, headers=ada).text for path in (INITIATE, IN_PARTS, TOKEN, CDN_IN_PARTS)]

    assert all("lovelace" not in text and UNKNOWN_ID not in text for text in texts)
    assert all(json.loads(text) for text in texts)
