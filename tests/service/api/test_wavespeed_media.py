"""`/api/v3/media`: WaveSpeed's uploads, by ticket and as a form."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

import pytest
from flask.testing import FlaskClient
from werkzeug.test import TestResponse

from api.connections import slow_client_socket
from farm.bootstrap import Farm
from farm.domain.catalogue import MAX_UPLOAD
from tests.service.api.calls import bearer, gateway_error
from tests.service.api.test_fal_storage import image, names, path_of, standing_still
from tests.service.jobstore.jobs import BASE

TICKET = "/api/v3/media/uploads"
FORM = "/api/v3/media/upload/binary"


@pytest.fixture
def stored(farm: Farm) -> Callable[[], set[str]]:
    """Return a function that lists what was stored since the test began."""
    before = names(farm.storage)
    return lambda: names(farm.storage) - before


def begin(api: FlaskClient, *, headers: dict[str, str] | None = None, **fields: object) -> dict[str, Any]:
    """Return a ticket as the answer shows it."""
    response = api.post(TICKET, json={"filename": "a.png", "size": 4} | fields, headers=headers)
    assert response.status_code == 200, response.text
    assert response.get_json()["code"] == 200
    data: dict[str, Any] = response.get_json()["data"]
    return data


def put(api: FlaskClient, ticket: dict[str, Any], content: bytes, **changes: str) -> TestResponse:
    """Send the file as the ticket says."""
    assert ticket["upload"]["method"] == "PUT"
    return api.put(path_of(ticket["upload"]["url"]), data=content, headers=ticket["upload"]["headers"] | changes)


def post_form(api: FlaskClient, content: bytes = b"file", name: str = "a.png", **kwargs: Any) -> TestResponse:
    data = {"file": (io.BytesIO(content), name)}
    return api.post(FORM, data=data, content_type="multipart/form-data", **kwargs)


# Tickets


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_is_put_where_the_ticket_says(api: FlaskClient, slash: str) -> None:
    content = image()
    asked = {"filename": "a.png", "size": len(content), "content_type": "image/png"}
    ticket = api.post(TICKET + slash, json=asked).get_json()["data"]

    assert set(ticket) == {"download_url", "upload"}
    assert set(ticket["upload"]) == {"method", "url", "headers"}
    assert ticket["upload"]["headers"] == {"Content-Type": "image/png"}
    assert put(api, ticket, content).status_code == 200

    response = api.get(path_of(ticket["download_url"]), buffered=True)
    assert (response.mimetype, response.data) == ("image/png", content)


def test_without_a_type_it_is_a_download(api: FlaskClient) -> None:
    ticket = begin(api)
    put(api, ticket, b"file")

    response = api.get(path_of(ticket["download_url"]), buffered=True)
    assert response.mimetype == "application/octet-stream"
    assert response.headers["Content-Disposition"] == "attachment; filename*=UTF-8''a.png"


def test_the_tickets_address_needs_no_key(keyed: FlaskClient, ada: dict[str, str]) -> None:
    ticket = begin(keyed, headers=ada)

    assert put(keyed, ticket, b"file").status_code == 200
    assert put(keyed, ticket, b"file", Authorization="Bearer whatever").status_code == 200


@pytest.mark.parametrize("sent", ["image/jpeg", "", "application/octet-stream; charset=utf-8"])
def test_other_headers_than_the_tickets_are_refused(
    api: FlaskClient, stored: Callable[[], set[str]], sent: str
) -> None:
    response = put(api, begin(api), b"file", **{"Content-Type": sent})

    assert "application/octet-stream" in gateway_error(response, 400)["message"]
    assert stored() == set()


def test_more_than_was_announced_is_413_and_less_400(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    ticket = begin(api)

    assert "4 bytes" in gateway_error(put(api, ticket, b"files"), 413)["message"]
    assert "4 bytes were announced, but 3 arrived" in gateway_error(put(api, ticket, b"fil"), 400)["message"]

    assert stored() == set()
    assert put(api, ticket, b"file").status_code == 200


def test_a_ticket_is_for_one_file_which_may_come_again(api: FlaskClient) -> None:
    ticket = begin(api)
    assert [put(api, ticket, b"file").status_code for _ in range(2)] == [200, 200]

    gateway_error(put(api, ticket, b"else"), 403)

    assert api.get(path_of(ticket["download_url"]), buffered=True).data == b"file"


def test_an_unknown_ticket_is_404(api: FlaskClient) -> None:
    gateway_error(api.put(f"{TICKET}/{'a' * 43}", data=b"file"), 404)


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"size": 0}, "size"),
        ({"size": -1}, "size"),
        ({"size": MAX_UPLOAD + 1}, "size"),
        ({"size": "4"}, "size"),
        ({"size": 4.5}, "size"),
        ({"size": None}, "size"),
        ({"filename": None}, "filename"),
        ({"filename": "a" * 1025}, "filename"),
        ({"content_type": ""}, "content_type"),
        ({"content_type": 1}, "content_type"),
        ({"content_type": " image/png"}, "content_type"),
        ({"content_type": "image/png\r\n"}, "content_type"),
        ({"content_type": "imäge/png"}, "content_type"),
        ({"part": 1}, "part"),
    ],
)
def test_a_field_that_is_wrong_is_named(api: FlaskClient, fields: dict[str, object], field: str) -> None:
    response = api.post(TICKET, json={"filename": "a.png", "size": 4} | fields)

    assert field in gateway_error(response, 400)["message"]


def test_name_and_size_are_required(api: FlaskClient) -> None:
    message = gateway_error(api.post(TICKET, json={}), 400)["message"]

    assert "filename" in message
    assert "size" in message


def test_the_largest_file_may_be_announced(api: FlaskClient) -> None:
    assert begin(api, size=MAX_UPLOAD)["upload"]["url"].startswith(BASE)


# Forms


@pytest.mark.parametrize("slash", ["", "/"])
def test_a_file_in_a_form_is_there(api: FlaskClient, slash: str) -> None:
    data = {"file": (io.BytesIO(image()), "an image.png", "image/png")}
    response = api.post(FORM + slash, data=data, content_type="multipart/form-data")

    about = response.get_json()["data"]
    assert (response.status_code, response.get_json()["code"]) == (200, 200)
    assert about == {
        "type": "image",
        "download_url": about["download_url"],
        "filename": "an image.png",
        "size": len(image()),
    }
    shown = api.get(path_of(about["download_url"]), buffered=True)
    assert (shown.mimetype, shown.data) == ("image/png", image())


@pytest.mark.parametrize("content", [b"\r\n", b"--", b"\r\n--boundary", bytes(range(256)) * 1000, b"x"])
def test_a_files_bytes_are_its_own(api: FlaskClient, content: bytes) -> None:
    about = post_form(api, content).get_json()["data"]

    assert about["size"] == len(content)
    assert api.get(path_of(about["download_url"]), buffered=True).data == content


@pytest.mark.parametrize("name", ["../../etc/passwd", "/etc/passwd", "..", "a\\b", "%2e%2e%2f", "ü.png"])
def test_the_callers_name_for_a_file_is_of_no_use_for_tricks(
    api: FlaskClient, stored: Callable[[], set[str]], name: str
) -> None:
    response = post_form(api, name=name)

    (one,) = stored()
    assert (response.status_code, len(one.partition("-upload-")[0])) == (200, 32)
    assert path_of(response.get_json()["data"]["download_url"]) == f"/files/{one}"


HEAD = b'--b\r\nContent-Disposition: form-data; name="file"; filename="a"\r\n\r\n'


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (b"", "multipart/form-data; boundary=b"),
        (b"file", "application/octet-stream"),
        (b"file", ""),
        (HEAD + b"file\r\n--b--\r\n", "multipart/form-data"),
        (HEAD + b"file\r\n--b--\r\n", "multipart/form-data; boundary="),
        (HEAD + b"file\r\n--b--\r\n", "multipart/form-data; boundary=c"),
        (HEAD + b"file", "multipart/form-data; boundary=b"),
        (HEAD + b"file\r\n--b", "multipart/form-data; boundary=b"),
        (HEAD[:20], "multipart/form-data; boundary=b"),
        (HEAD.replace(b'; filename="a"', b"") + b"file\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (HEAD.replace(b'"file"', b'"image"') + b"file\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (HEAD.replace(b"Content-Disposition", b"X") + b"file\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (HEAD + b"file\r\n" + HEAD + b"other\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (HEAD + b"\r\n--b--\r\n", "multipart/form-data; boundary=b"),
        (b"--b--\r\n", "multipart/form-data; boundary=b"),
    ],
    ids=range(15),
)
def test_a_form_without_exactly_one_file_is_refused(
    api: FlaskClient, stored: Callable[[], set[str]], body: bytes, content_type: str
) -> None:
    gateway_error(api.post(FORM, data=body, content_type=content_type), 400)

    assert stored() == set()


def test_a_form_that_never_comes_to_the_point_is_refused(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    """Nothing is looked through for a boundary without end."""
    gateway_error(api.post(FORM, data=b"x" * 3_000_000, content_type="multipart/form-data; boundary=b"), 400)

    assert stored() == set()


def test_a_form_that_is_cut_off_stores_nothing(api: FlaskClient, stored: Callable[[], set[str]]) -> None:
    body = HEAD + b"file\r\n--b--\r\n"
    kind = "multipart/form-data; boundary=b"

    response = api.post(FORM, data=body, content_type=kind, environ_overrides={"CONTENT_LENGTH": str(len(body) + 1)})

    assert "cut off" in gateway_error(response, 400)["message"]
    assert stored() == set()


def test_a_form_larger_than_the_limit_is_413(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    monkeypatch.setattr("api.routes.wavespeed_media.MAX_UPLOAD", 1000)

    gateway_error(post_form(api, b"x" * 1000), 413)

    assert stored() == set()


def test_a_file_that_stops_coming_is_given_up(
    api: FlaskClient, monkeypatch: pytest.MonkeyPatch, stored: Callable[[], set[str]]
) -> None:
    monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 0.05)
    upload = begin(api)["upload"]
    ways = (
        ("PUT", path_of(upload["url"]), upload["headers"]["Content-Type"]),
        ("POST", FORM, "multipart/form-data; boundary=b"),
    )
    for method, path, kind in ways:
        with standing_still() as environ:
            gateway_error(api.open(path, method=method, content_type=kind, environ_overrides=environ), 408)
    assert stored() == set()


# Around


@pytest.mark.parametrize(("path", "allowed"), [(TICKET, "POST"), (FORM, "POST"), (f"{TICKET}/x", "PUT")])
@pytest.mark.parametrize("slash", ["", "/"])
def test_the_wrong_method_is_405_with_the_right_one(api: FlaskClient, path: str, allowed: str, slash: str) -> None:
    """A POST is no unknown model."""
    for method in {"GET", "POST", "PUT"} - {allowed}:
        response = api.open(path + slash, method=method)
        gateway_error(response, 405)
        assert allowed in response.headers["Allow"]


@pytest.mark.parametrize("path", [TICKET, FORM])
def test_an_unknown_parameter_is_rejected(api: FlaskClient, path: str) -> None:
    assert "region" in gateway_error(api.post(f"{path}?region=eu", json={}), 400)["message"]


def test_an_upload_ticket_requires_a_key(keyed: FlaskClient, farm: Farm, stored: Callable[[], set[str]]) -> None:
    farm.callers.create("ada")

    gateway_error(keyed.post(TICKET, json={"filename": "a", "size": 4}), 401)
    gateway_error(post_form(keyed, headers=bearer("farm_00000000_" + "a" * 43)), 401)
    assert stored() == set()
