"""`/files`: images for anyone who knows their unguessable names."""

from __future__ import annotations

import io

import pytest
from flask.testing import FlaskClient
from PIL import Image

from farm.bootstrap import Farm
from farm.domain.catalogue import OutputFormat
from farm.storage.storage import new_key
from tests.service.api.calls import UNKNOWN_ID, problem
from tests.service.workers.worker import folder_of


@pytest.fixture
def image() -> bytes:
    file = io.BytesIO()
    Image.linear_gradient("L").save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def key(farm: Farm, image: bytes) -> str:
    key = new_key(UNKNOWN_ID, 1, 0, "png")
    farm.storage.put(key, image)
    return key


@pytest.mark.parametrize("authorization", [None, "Bearer anything", "Key x", "Basic !"])
def test_an_image_needs_no_key_and_ignores_any(
    keyed: FlaskClient, key: str, image: bytes, authorization: str | None
) -> None:
    headers = {"Authorization": authorization} if authorization else None

    response = keyed.get(f"/files/{key}", headers=headers, buffered=True)

    assert (response.status_code, response.mimetype, response.data) == (200, "image/png", image)


@pytest.mark.parametrize(("extension", "kind"), [("png", "image/png"), ("jpeg", "image/jpeg")])
def test_the_content_type_agrees_with_the_name(
    api: FlaskClient, farm: Farm, extension: OutputFormat, kind: str
) -> None:
    key = new_key(UNKNOWN_ID, 1, 0, extension)
    farm.storage.put(key, b"content")

    response = api.get(f"/files/{key}", buffered=True)

    assert response.content_type == kind
    assert response.headers["X-Content-Type-Options"] == "nosniff"


def test_a_range_is_sent_and_a_known_file_is_answered_with_304(api: FlaskClient, key: str, image: bytes) -> None:
    whole = api.get(f"/files/{key}", buffered=True)
    part = api.get(f"/files/{key}", buffered=True, headers={"Range": "bytes=1-3"})
    end = api.get(f"/files/{key}", buffered=True, headers={"Range": "bytes=-3"})
    known = api.get(f"/files/{key}", buffered=True, headers={"If-None-Match": whole.headers["ETag"]})

    assert (whole.headers["Accept-Ranges"], whole.headers["Cache-Control"]) == ("bytes", "private, no-cache")
    assert (part.status_code, part.data, part.content_length) == (206, image[1:4], 3)
    assert part.headers["Content-Range"] == f"bytes 1-3/{len(image)}"
    assert (end.status_code, end.data) == (206, image[-3:])
    assert (known.status_code, known.data) == (304, b"")


def test_a_part_that_is_not_there_is_refused(api: FlaskClient, key: str) -> None:
    problem(api.get(f"/files/{key}", headers={"Range": "bytes=9999999-"}), 416)


@pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "bytes=x", "bytes=5-2", "bytes=-9999999", "items=0-1"])
def test_a_range_that_cannot_be_had_so_is_not_heard(api: FlaskClient, key: str, image: bytes, asked: str) -> None:
    response = api.get(f"/files/{key}", buffered=True, headers={"Range": asked})

    assert (response.status_code, response.data, response.headers["Accept-Ranges"]) == (200, image, "bytes")


@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_another_file_than_the_caller_wants_is_412_with_a_whole_answer(api: FlaskClient, key: str, method: str) -> None:
    """Content-Length is not that of an image that does not follow: clients would wait for it."""
    response = api.open(f"/files/{key}", method=method, headers={"If-Match": '"other"'})

    assert response.status_code == 412
    assert response.content_type == "application/problem+json"
    if method == "GET":
        assert response.content_length == len(response.data)
        problem(response, 412)


def test_a_head_request_is_answered_without_the_body(api: FlaskClient, key: str, image: bytes) -> None:
    response = api.head(f"/files/{key}", buffered=True)

    assert (response.status_code, response.data) == (200, b"")
    assert int(response.headers["Content-Length"]) == len(image)


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "..",
        "%2e%2e",
        "..%2f..%2fetc%2fpasswd",
        "....//....//etc/passwd",
        "%2fetc%2fpasswd",
        f"{UNKNOWN_ID}-1-0-0123456789abcdef.png",
        f"{UNKNOWN_ID}-1-0-0123456789abcdef.png%00",
        f"{UNKNOWN_ID}-1-0-0123456789abcdef.png%0a",
        "%ff",
        "a" * 3000,
        "<script>",
    ],
    ids=lambda name: name[:24],
)
def test_an_odd_name_is_not_found(keyed: FlaskClient, name: str) -> None:
    problem(keyed.get(f"/files/{name}"), 404)


def test_a_half_written_image_is_not_found(api: FlaskClient, farm: Farm, key: str) -> None:
    path = folder_of(farm.storage) / key[:2] / key
    path.rename(path.with_name(f".{key}.part"))

    problem(api.get(f"/files/{key}"), 404)
    problem(api.get(f"/files/.{key}.part"), 404)


def test_a_file_cannot_be_changed(keyed: FlaskClient, key: str) -> None:
    for method in ("PUT", "POST", "DELETE", "PATCH"):
        problem(keyed.open(f"/files/{key}", method=method, data=b"other"), 405)
