"""Images in a bucket of a real S3 server, which checks signatures and their expiry; and faults in between."""

from __future__ import annotations

import io
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pytest
import urllib3
from flask.testing import FlaskClient
from PIL import Image
from werkzeug.test import TestResponse

from api.app import create_app
from farm import clock
from farm.bootstrap import Farm, build, storage_for
from farm.domain.catalogue import MAX_UPLOAD
from farm.domain.errors import ConfigurationError, NotFound, StorageError, StorageUnavailable
from farm.settings import Settings
from farm.storage import s3 as module
from farm.storage.s3 import Bucket, S3Storage
from farm.storage.storage import CHUNK_BYTES, Page, Storage, new_key, new_upload_key
from farm.uploads.tickets import Tickets, UploadQuota
from farm.uploads.uploads import Uploads
from tests.error_details import told_to_operators
from tests.farms import wait_for
from tests.fault_proxies import Fault, FaultyWay, faulty_way, refusal
from tests.s3 import BUCKET, S3, SECRET, Place
from tests.service.api.calls import UNKNOWN_ID, fal_error, problem
from tests.service.jobstore.jobs import BASE, result, submit, take_one

JOB, OTHER = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c12", "1c0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c12"

#: Everything that may happen to a request on its way.
FAULTS = {
    "500": refusal(500, "InternalError"),
    "503": refusal(503, "SlowDown"),
    "403": refusal(403, "AccessDenied"),
    "silence": Fault(silent=True),
    "reset": Fault(reset=True),
    "no answer": Fault(cut_after=0),
    "cut in the head": Fault(cut_after=40),
}
HEAD_OF_3_BYTES = (
    b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nLast-Modified: Sat, 21 Nov 2026 12:07:21 GMT\r\nConnection: close\r\n\r\n"
)
Reach = Callable[..., S3Storage]

each_fault = pytest.mark.parametrize("fault", FAULTS.values(), ids=FAULTS.keys())


@pytest.fixture
def place(s3: S3) -> Place:
    return s3.place()


@pytest.fixture
def way(s3: S3) -> Iterator[FaultyWay]:
    with faulty_way(s3.port) as way:
        yield way


@pytest.fixture
def reach(s3: S3, way: FaultyWay, place: Place, monkeypatch: pytest.MonkeyPatch) -> Reach:
    """Return a function that makes storages in the bucket; `patience` is their timeout in seconds."""
    for name, value in s3.environment(way.port).items():
        monkeypatch.setenv(name, value)

    def reach_it(
        *, url_seconds: float | None = None, patience: float = 5, public_endpoint: str | None = None
    ) -> S3Storage:
        monkeypatch.setattr(module, "_PUT_SECONDS", (patience, patience))
        monkeypatch.setattr(module, "_READ_SECONDS", (patience, patience))
        return S3Storage(Bucket.at(f"{place.url}/of/farm"), url_seconds=url_seconds, public_endpoint=public_endpoint)

    return reach_it


@pytest.fixture
def storage(reach: Reach) -> S3Storage:
    return reach()


@pytest.fixture
def key() -> str:
    return new_key(JOB, 3, 1, "png")


@pytest.fixture
def api(farm: Farm, storage: Storage) -> FlaskClient:
    """Return the API of a farm whose images lie in the bucket."""
    return api_of(farm, storage)


def api_of(farm: Farm, storage: Storage) -> FlaskClient:
    parts = replace(farm, storage=storage)
    return create_app(parts, base=BASE, with_keys=True, max_streams=4, max_held_calls=4).test_client()


# What lies in the bucket


def test_an_image_lies_under_prefix_and_key_and_says_what_it_is(storage: S3Storage, place: Place, key: str) -> None:
    storage.put(key, b"content")

    found = place.get(f"of/farm/{key}")

    assert place.names() == [f"of/farm/{key}"]
    assert (found["Body"], found["ContentType"]) == (b"content", "image/png")
    assert found["Metadata"] == {"job": JOB, "fence": "3", "number": "1"}


@pytest.mark.parametrize(
    ("url", "prefix"), [("s3://b", ""), ("s3://b/", ""), ("s3://b/x", "x/"), ("s3://b/x/y/", "x/y/")]
)
def test_a_url_names_bucket_and_prefix(url: str, prefix: str) -> None:
    assert Bucket.at(url) == Bucket("b", prefix)


def test_marks_lie_beside_the_images_and_are_not_listed_as_images(storage: S3Storage, place: Place) -> None:
    for name in ("of/farm/farm-id-mine", "of/farm/farm-id", f"of/farm-id-{'0' * 32}"):
        place.put(name)
    storage.mark("1" * 32)

    assert storage.marks() == {"1" * 32}
    assert place.names().count(f"of/farm/farm-id-{'1' * 32}") == 1
    assert storage.page("").entries == ()


def test_a_stored_object_is_found_and_read(storage: S3Storage, key: str) -> None:
    storage.put(key, b"content")

    image = storage.find(key)

    assert image is not None
    assert (image.content_type, image.bytes) == ("image/png", 7)
    assert abs(clock.now_us() / 1e6 - image.stored_at.timestamp()) < 10
    assert storage.read(key) == b"content"


def test_a_part_can_be_read(storage: S3Storage, key: str) -> None:
    storage.put(key, b"content")

    with closing(storage.open(key, 1, 3)) as pieces:
        assert b"".join(pieces) == b"on"


def test_an_object_that_was_not_stored_is_not_found(storage: S3Storage, key: str) -> None:
    assert storage.find(key) is None
    with pytest.raises(NotFound, match=key):
        storage.read(key)
    with pytest.raises(NotFound, match=key):
        storage.open(key, 0, 1)


def test_a_store_on_this_machine_is_called_without_a_proxy(
    s3: S3, way: FaultyWay, reach: Reach, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{s3.port}")
    monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{way.port}")
    monkeypatch.delenv("NO_PROXY", raising=False)
    storage = reach()

    storage.put(key, b"content")
    storage.delete_job(JOB)
    in_use = Bucket("images", "")
    module.client_for(in_use, "FARM_STORAGE_URL").list_objects_v2(Bucket=in_use.name)

    assert (storage.find(key), way.seen) == (None, [])


@pytest.mark.parametrize("name", ["", "x", "../../of/farm/x", f"{JOB}-1-0-0123456789ABCDEF.png"])
def test_an_invalid_key_is_not_looked_up(storage: S3Storage, way: FaultyWay, name: str) -> None:
    assert storage.find(name) is None
    with pytest.raises(StorageError, match="is not a storage key"):
        storage.put(name, b"content")

    assert way.seen == []


def test_deleting_a_job_removes_every_image_of_it_and_no_other(storage: S3Storage, place: Place) -> None:
    kept = new_key(OTHER, 1, 0, "png")
    for key in (kept, new_key(JOB, 1, 0, "png"), new_key(JOB, 1, 1, "png"), new_key(JOB, 22, 0, "jpeg")):
        storage.put(key, b"content")

    storage.delete_job(JOB)
    storage.delete_job(JOB)

    assert place.names() == [f"of/farm/{kept}"]


def test_pages_show_the_farms_own_images_in_turn(
    storage: S3Storage, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing of what others keep in the bucket, or under the prefix."""
    monkeypatch.setattr(module, "_PAGE_SIZE", 2)
    keys = sorted(new_key(JOB, 1, number, "png") for number in range(3))
    for name in (*(f"of/farm/{key}" for key in keys), "of/farm/notes.txt", f"elsewhere/{keys[0]}", keys[1]):
        place.put(name)

    first = storage.page("")
    second = storage.page(first.cursor)

    assert [one.name for one in first.entries] == keys[:2]
    assert [one.name for one in second.entries] == keys[2:]
    assert second.cursor == ""
    assert all(-5 < one.age_seconds < 60 for one in first.entries)


def test_an_empty_bucket_has_one_empty_page(storage: S3Storage) -> None:
    assert storage.page("") == Page((), "")


def test_ages_are_by_the_stores_clock(storage: S3Storage, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose clock is a day ahead must not take everything for old."""
    storage.put(key, b"content")
    monkeypatch.setattr(clock, "now_us", lambda: time.time_ns() // 1000 + 86_400_000_000)

    (found,) = storage.page("").entries

    assert found.age_seconds < 60


def test_checksums_of_boto3s_own_can_be_asked_for(
    storage: S3Storage, place: Place, key: str, s3: S3, way: FaultyWay
) -> None:
    """They are not sent otherwise, since many stores reject them."""
    storage.put(key, b"content")
    assert not way.sent_header("x-amz-checksum-crc32")

    S3Storage(Bucket.at(place.url, checksums="when_supported")).put(key, b"content")

    assert way.sent_header("x-amz-checksum-crc32")
    assert place.get(key)["Body"] == b"content"


# Rights


def test_a_wrong_secret_is_refused(reach: Reach, place: Place, key: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "not-the-secret")

    with pytest.raises(StorageUnavailable) as caught:
        reach().put(key, b"content")

    assert caught.value.detail == f"the bucket '{BUCKET}' refuses: SignatureDoesNotMatch, status 403"
    assert place.names() == []


def test_a_missing_bucket_is_named(storage: S3Storage, key: str) -> None:
    with pytest.raises(StorageUnavailable, check=told_to_operators("'nowhere' refuses: NoSuchBucket")):
        S3Storage(Bucket("nowhere", "")).put(key, b"content")


def test_a_signed_url_works_without_a_key_until_it_expires(reach: Reach, key: str, place: Place) -> None:
    storage = reach(url_seconds=3)
    storage.put(key, b"content")
    url = storage.url(key)
    assert url is not None

    answer = urllib3.request("GET", url)

    assert (answer.status, answer.data, answer.headers["Content-Type"]) == (200, b"content", "image/png")
    assert SECRET not in url
    wait_for(lambda: urllib3.request("GET", url).status == 403, seconds=10, what="the end of the signature")


def test_a_signed_url_names_the_public_endpoint(reach: Reach, key: str, s3: S3) -> None:
    """The signature covers the address: the URL works there, although the farm reaches the store elsewhere."""
    public = f"http://localhost:{s3.port}"
    storage = reach(url_seconds=60, public_endpoint=public)
    storage.put(key, b"content")

    url = storage.url(key)

    assert url is not None
    assert url.startswith(f"{public}/")
    assert urllib3.request("GET", url).data == b"content"
    assert urllib3.request("GET", url.replace("localhost", "127.0.0.1")).status == 403


def test_certificate_authorities_come_from_boto3s_variable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
    assert module.ca_bundle() is None

    monkeypatch.setenv("AWS_CA_BUNDLE", "/etc/ssl/own.pem")
    assert module.ca_bundle() == "/etc/ssl/own.pem"


def test_a_signed_url_is_good_for_its_image_alone(reach: Reach, key: str) -> None:
    storage, other = reach(url_seconds=60), new_key(OTHER, 1, 0, "png")
    for name in (key, other):
        storage.put(name, b"content")
    url = storage.url(key)
    assert url is not None

    tampered = [url.replace(key, other), url.replace("X-Amz-Expires=60", "X-Amz-Expires=600"), url.partition("?")[0]]

    assert {urllib3.request("GET", one).status for one in tampered} <= {400, 403}
    assert urllib3.request("PUT", url, body=b"other").status == 403
    assert storage.read(key) == b"content"


@pytest.mark.parametrize(("kept", "valid"), [(3600.0, "3600"), (30 * 86400.0, "604800")])
def test_a_signature_lasts_as_long_as_the_job_but_for_a_week_at_most(
    reach: Reach, key: str, kept: float, valid: str
) -> None:
    url = reach(url_seconds=kept).url(key)

    assert url is not None
    assert parse_qs(urlsplit(url).query)["X-Amz-Expires"] == [valid]


@pytest.mark.parametrize("files", ["proxy", "presigned"])
def test_callers_are_given_the_urls_that_the_settings_ask_for(
    farm: Farm, storage: S3Storage, place: Place, key: str, files: str
) -> None:
    settings = Settings.model_validate({"storage_url": f"{place.url}/of/farm", "files": files})
    storage.put(key, b"content")

    url = replace(farm, storage=storage_for(settings, Path("unused"))).links(BASE).file(key)

    if files == "proxy":
        assert url == f"{BASE}/files/{key}"
    else:
        assert urllib3.request("GET", url).data == b"content"


def test_without_credentials_the_farm_does_not_start(reach: Reach, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # else a cloud's own address would be asked
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", "/dev/null")

    with pytest.raises(ConfigurationError, match=r"^FARM_STORAGE_URL: no credentials.*AWS_ACCESS_KEY_ID"):
        reach()


@pytest.mark.parametrize(
    ("endpoint", "named"),
    [
        ("127.0.0.1:9000", "127.0.0.1:9000"),
        ("http://store.example:99999", "store.example:99999"),
        ("http://store.example/?x=1", "not a valid URI"),
        ("ftp://store.example", "ftp://store.example"),
        ("http://ada:secret@store.example", "has a user name"),
    ],
)
def test_an_invalid_endpoint_is_named(reach: Reach, monkeypatch: pytest.MonkeyPatch, endpoint: str, named: str) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)

    with pytest.raises(ConfigurationError, match=rf"^FARM_STORAGE_URL: .*{named}") as refused:
        reach()
    assert "secret" not in str(refused.value)


@pytest.mark.parametrize(
    ("endpoint", "addressing", "images", "is_at"),
    [
        ("http://127.0.0.1:9000/", "auto", "http://127.0.0.1:9000/images/p/", "http://127.0.0.1:9000/images/p/"),
        ("http://[::1]:9000//", "auto", "http://[::1]:9000/images/p/", "http://[::1]:9000/images/p/"),
        ("https://a.example/s3/v1/", "auto", "https://a.example/s3/v1/images/p/", "https://a.example/s3/v1/images/p/"),
        (
            "https://S3.eu-west-1.example",
            "path",
            "https://S3.eu-west-1.example/images/p/",
            "https://s3.eu-west-1.example/images/p/",
        ),
        (
            "https://s3.eu-west-1.example/",
            "virtual",
            "https://images.s3.eu-west-1.example/p/",
            "https://s3.eu-west-1.example/images/p/",
        ),
        ("https://a.example/s3/", "virtual", "https://images.a.example/s3/p/", "https://a.example/s3/images/p/"),
        ("http://127.0.0.1:9000", "virtual", "http://127.0.0.1:9000/images/p/", "http://127.0.0.1:9000/images/p/"),
    ],
)
def test_an_endpoint_has_many_forms_and_is_one_place_in_each(
    reach: Reach, key: str, monkeypatch: pytest.MonkeyPatch, endpoint: str, addressing: str, images: str, is_at: str
) -> None:
    """By the place, processes tell whether they have one storage: a slash more makes no other one."""
    reach()
    monkeypatch.setenv("AWS_ENDPOINT_URL", endpoint)
    bucket = Bucket.at("s3://images/p", addressing=addressing)

    own, public = S3Storage(bucket, url_seconds=60), S3Storage(bucket, url_seconds=60, public_endpoint=endpoint)

    assert [str(storage.url(key)).partition("?")[0] for storage in (own, public)] == [images + key] * 2
    assert own.place == is_at


@pytest.mark.parametrize("slashes", ["/", "//"])
def test_a_slash_behind_the_endpoint_is_no_matter(
    reach: Reach, way: FaultyWay, key: str, monkeypatch: pytest.MonkeyPatch, slashes: str
) -> None:
    reach()
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{way.port}{slashes}")
    storage = reach(url_seconds=60)

    storage.put(key, b"content")

    assert storage.read(key) == b"content"
    assert key in {entry.name for entry in storage.page("").entries}
    assert urllib3.request("GET", str(storage.url(key))).data == b"content"


# Trouble


@pytest.mark.parametrize("fault", [FAULTS[name] for name in FAULTS if name != "cut in the head"])
def test_a_put_that_fails_says_so_and_may_be_tried_again(
    reach: Reach, storage: S3Storage, way: FaultyWay, key: str, fault: Fault
) -> None:
    way.inject(fault, "PUT")
    began = time.monotonic()
    with pytest.raises(StorageUnavailable, check=told_to_operators("the bucket 'images'")):
        reach(patience=0.5).put(key, b"content")
    assert time.monotonic() - began < 20

    way.heal()
    storage.put(key, b"content")

    assert storage.read(key) == b"content"


def test_a_put_that_is_done_but_badly_answered_is_a_good_one(storage: S3Storage, way: FaultyWay, key: str) -> None:
    """The storage checks for the object afterwards."""
    way.inject(FAULTS["cut in the head"], "PUT")

    storage.put(key, b"content")

    assert storage.read(key) == b"content"


def test_a_large_put_to_a_store_that_takes_little_ends(reach: Reach, way: FaultyWay, key: str) -> None:
    """Each of its bytes may move, but all of them have only so long."""
    way.inject(Fault(bytes_taken_per_second=100_000), "PUT")
    began = time.monotonic()

    with pytest.raises(StorageUnavailable):
        reach(patience=1).put(key, bytes(20_000_000))

    assert time.monotonic() - began < 25


@each_fault
def test_a_look_survives_one_fault(reach: Reach, place: Place, way: FaultyWay, key: str, fault: Fault) -> None:
    storage = reach(patience=1)
    place.put(f"of/farm/{key}", b"content")
    way.inject(fault, times=1)

    if fault in (FAULTS["403"], FAULTS["cut in the head"]):
        with pytest.raises(StorageUnavailable):
            storage.read(key)
    else:
        assert storage.read(key) == b"content"


def test_a_store_that_is_down_is_reported_to_operators(storage: S3Storage, way: FaultyWay, key: str) -> None:
    way.go_down()

    with pytest.raises(StorageUnavailable, check=told_to_operators("gives no valid answer: EndpointConnectionError")):
        storage.put(key, b"content")

    way.come_up()
    storage.put(key, b"content")


def test_an_image_that_arrived_short_is_removed(storage: S3Storage, way: FaultyWay, place: Place, key: str) -> None:
    way.inject(Fault(answer=HEAD_OF_3_BYTES), "HEAD")

    with pytest.raises(StorageUnavailable, check=told_to_operators("kept 3 of 7 bytes")):
        storage.put(key, b"content")

    assert place.names() == []


def test_a_put_that_was_answered_but_not_done_is_noticed(storage: S3Storage, way: FaultyWay, key: str) -> None:
    way.inject(Fault(answer=b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"), "PUT")

    with pytest.raises(StorageUnavailable, check=told_to_operators("kept nothing")):
        storage.put(key, b"content")


def test_a_request_that_waiting_does_not_mend_is_final(storage: S3Storage, way: FaultyWay, key: str) -> None:
    way.inject(refusal(400, "EntityTooLarge"), "PUT")

    with pytest.raises(StorageError, check=told_to_operators("EntityTooLarge")) as caught:
        storage.put(key, b"content")

    assert not isinstance(caught.value, StorageUnavailable)


@pytest.mark.parametrize(
    "answer", [b"<html>Welcome</html>", b"", b"<ListBucketResult><Conten"], ids=["html", "none", "cut"]
)
def test_an_answer_that_is_not_s3s_is_trouble(storage: S3Storage, way: FaultyWay, answer: bytes) -> None:
    head = b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: %d\r\n\r\n" % len(answer)
    way.inject(Fault(answer=head + answer), "GET")

    with pytest.raises(StorageUnavailable):
        storage.page("")


def test_a_store_that_does_not_answer_holds_few_threads(
    reach: Reach, way: FaultyWay, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The others are told at once, so that the API goes on with everything else."""
    monkeypatch.setattr(module, "_MAX_CONCURRENT_READS", 2)
    monkeypatch.setattr(module, "_SLOT_SECONDS", 0.1)
    storage, result = reach(patience=1.5), []
    way.inject(Fault(silent=True))

    def ask() -> None:
        with pytest.raises(StorageUnavailable) as caught:
            storage.find(key)
        result.append(caught.value.detail)

    threads = [threading.Thread(target=ask) for _ in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert ["too many calls already wait" in text for text in result] == [True] * 4 + [False] * 2


# `/files`


@pytest.fixture(scope="module")
def image() -> bytes:
    file = io.BytesIO()
    Image.effect_noise((800, 800), 100).save(file, "PNG")
    return file.getvalue()


@pytest.fixture
def stored(storage: S3Storage, key: str, image: bytes) -> str:
    """Store an image in the bucket, and return its path."""
    storage.put(key, image)
    return f"/files/{key}"


def test_an_image_is_passed_on(api: FlaskClient, stored: str, image: bytes) -> None:
    response = api.get(stored, buffered=True, headers={"Authorization": "Bearer anything"})

    assert (response.status_code, response.content_type, response.data) == (200, "image/png", image)
    assert response.content_length == len(image)
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert response.headers["Cache-Control"] == "private, no-cache"


def test_parts_heads_and_what_is_known(api: FlaskClient, way: FaultyWay, stored: str, image: bytes) -> None:
    head = api.head(stored)
    assert way.asked("GET") == 0
    part = api.get(stored, buffered=True, headers={"Range": "bytes=100000-100009"})
    end = api.get(stored, buffered=True, headers={"Range": "bytes=-10"})
    known = api.get(stored, buffered=True, headers={"If-None-Match": head.headers["ETag"]})
    old = api.get(stored, buffered=True, headers={"If-Range": '"other"', "Range": "bytes=0-9"})

    assert (head.status_code, head.data, head.content_length) == (200, b"", len(image))
    assert (part.status_code, part.data) == (206, image[100000:100010])
    assert part.headers["Content-Range"] == f"bytes 100000-100009/{len(image)}"
    assert (end.status_code, end.data) == (206, image[-10:])
    assert (known.status_code, known.data) == (304, b"")
    assert (old.status_code, old.data) == (200, image)
    problem(api.get(stored, headers={"Range": f"bytes={len(image)}-"}), 416)


def test_an_unknown_file_is_404(api: FlaskClient, key: str) -> None:
    problem(api.get(f"/files/{key}"), 404)
    problem(api.get(f"/files/{UNKNOWN_ID}"), 404)


@each_fault
def test_a_file_gets_503_while_the_store_does_not_answer(
    reach: Reach, farm: Farm, way: FaultyWay, stored: str, fault: Fault
) -> None:
    """Whichever of the farm's two questions meets with the fault."""
    api = api_of(farm, reach(patience=1))
    for method in ("HEAD", "GET"):
        way.inject(fault, method)

        response = api.get(stored)
        way.heal()

        expected = "storage_refused" if fault == FAULTS["403"] else "storage_unavailable"
        assert problem(response, 503)["code"] == expected
        assert int(response.headers["Retry-After"]) > 0


def test_an_image_that_breaks_off_is_no_whole_one(api: FlaskClient, way: FaultyWay, stored: str) -> None:
    """The connection is broken too, so that the caller sees it."""
    way.inject(Fault(cut_after=100_000), "GET")
    response = api.get(stored)
    assert response.status_code == 200

    with pytest.raises(StorageUnavailable):
        for _ in response.iter_encoded():
            pass
    response.close()


def test_an_image_is_not_in_memory_as_a_whole(api: FlaskClient, stored: str, image: bytes) -> None:
    response = api.get(stored)

    pieces = list(response.iter_encoded())
    response.close()

    assert b"".join(pieces) == image
    assert max(map(len, pieces)) <= CHUNK_BYTES < len(image)


def test_connections_are_used_again(api: FlaskClient, way: FaultyWay, stored: str) -> None:
    for _ in range(5):
        api.get(stored, buffered=True)

    assert way.asked("GET") == 5
    assert way.open_connections <= 2  # one that put, one that looks


@pytest.mark.parametrize("reads", [0, 1])
def test_a_download_that_is_broken_off_closes_its_connection(
    reach: Reach, farm: Farm, way: FaultyWay, key: str, reads: int
) -> None:
    storage = reach()
    storage.put(key, bytes(20_000_000))
    api = api_of(farm, storage)
    idle = way.open_connections
    response = api.get(f"/files/{key}")
    pieces = response.iter_encoded()
    for _ in range(reads):
        next(pieces)

    response.close()

    wait_for(lambda: way.open_connections < idle, what="the end of the broken off connection")


@pytest.fixture
def whole(farm: Farm, storage: S3Storage, place: Place, redis_dir: Path) -> Farm:
    """Return the parts of a farm, built by its settings, on an empty Redis."""
    return build(Settings.model_validate({"storage_url": f"{place.url}/of/farm"}), redis_dir)


def test_deleting_a_job_removes_everything_of_it(whole: Farm, storage: S3Storage, place: Place, way: FaultyWay) -> None:
    """Images of superseded attempts are removed, too. While the store is down, no record is deleted."""
    api = create_app(whole, base=BASE, with_keys=False, max_streams=4, max_held_calls=4).test_client()
    job_id = submit(whole.store, "local")
    job = take_one(whole.store)
    keys = [new_key(job_id, fence, 0, "png") for fence in (job.fence - 1, job.fence)]
    for key in keys:
        storage.put(key, b"content")
    whole.store.complete(job, result(job))

    way.go_down()
    assert problem(api.delete(f"/farm/v1/jobs/{job_id}"), 503)["code"] == "storage_unavailable"
    way.come_up()
    assert (api.get(f"/farm/v1/jobs/{job_id}").status_code, len(place.names())) == (200, 2)

    assert api.delete(f"/farm/v1/jobs/{job_id}").status_code == 204
    assert (api.get(f"/farm/v1/jobs/{job_id}").status_code, place.names()) == (404, [])


def test_a_url_is_quickly_signed(reach: Reach, key: str) -> None:
    """It is done for every image at every look at a job."""
    storage = reach(url_seconds=60)
    storage.url(key)
    began = time.process_time()
    for _ in range(100):
        storage.url(key)

    assert (time.process_time() - began) / 100 < 0.005


# Uploads


@pytest.fixture
def upload_key() -> str:
    return new_upload_key("png", until=9_999_999_999)


@pytest.fixture
def uploading(farm: Farm, storage: Storage, tmp_path: Path) -> FlaskClient:
    """Return the API, without keys, of a farm whose uploads go to the bucket."""
    uploads = Uploads(
        Tickets(farm.redis),
        quota=UploadQuota(farm.redis, max_bytes=MAX_UPLOAD, seconds=3600),
        storage=storage,
        spool=tmp_path,
        keep_seconds=3600,
    )
    parts = replace(farm, storage=storage, uploads=uploads)
    return create_app(parts, base=BASE, with_keys=False, max_streams=4, max_held_calls=4).test_client()


def begin(api: FlaskClient, kind: str = "initiate") -> tuple[str, str]:
    """Return the URL to send an image to, in fal's dialect, and the URL of the stored file."""
    answer = api.post(f"/fal/rest/storage/upload/{kind}", json={"content_type": "image/png"}).get_json()
    return answer["upload_url"].removeprefix(BASE), answer["file_url"].removeprefix(BASE)


def test_a_file_is_stored_as_its_bytes_would_be(storage: S3Storage, place: Place, upload_key: str) -> None:
    with io.BytesIO(bytes(range(256)) * 20_000) as file:
        file.seek(100)
        storage.put_file(upload_key, file)
        content = file.getvalue()

    found = place.get(f"of/farm/{upload_key}")
    assert (found["Body"], found["ContentType"]) == (content, "image/png")
    assert storage.read(upload_key) == content


@pytest.mark.parametrize("fault", [FAULTS[name] for name in FAULTS if name != "cut in the head"])
def test_a_file_that_cannot_be_stored_can_be_tried_again(
    reach: Reach, storage: S3Storage, way: FaultyWay, upload_key: str, fault: Fault
) -> None:
    way.inject(fault, "PUT")
    file = io.BytesIO(b"content")
    with pytest.raises(StorageUnavailable, check=told_to_operators("the bucket 'images'")):
        reach(patience=0.5).put_file(upload_key, file)
    way.heal()

    storage.put_file(upload_key, file)

    assert storage.read(upload_key) == b"content"


def test_a_file_that_arrived_short_is_removed(
    storage: S3Storage, way: FaultyWay, place: Place, upload_key: str
) -> None:
    way.inject(Fault(answer=HEAD_OF_3_BYTES), "HEAD")

    with pytest.raises(StorageUnavailable, check=told_to_operators("kept 3 of 7 bytes")):
        storage.put_file(upload_key, io.BytesIO(b"content"))

    assert place.names() == []


def test_an_upload_is_found_until_its_time_is_over(storage: S3Storage, place: Place) -> None:
    over = new_upload_key("png", until=1_767_323_045)
    storage.put(over, b"upload")

    assert (storage.find(over), storage.read(over)) == (None, b"upload")
    assert place.names() == [f"of/farm/{over}"]


def test_uploads_are_read_at_the_farms_own_address_only(reach: Reach, upload_key: str) -> None:
    """It knows their time, and is how requests name them."""
    storage = reach(url_seconds=60)
    storage.put(upload_key, b"upload")

    assert storage.url(upload_key) is None


def test_files_of_every_kind_go_through_the_bucket(
    uploading: FlaskClient, place: Place, image: bytes, tmp_path: Path
) -> None:
    whole, first = begin(uploading)
    in_parts, second = begin(uploading, "initiate-multipart")
    assert uploading.put(whole, data=image).status_code == 200
    pieces = [image[:100_000], image[100_000:]]
    named = [uploading.put(f"{in_parts}/{number}", data=piece).get_json() for number, piece in enumerate(pieces, 1)]
    assert uploading.post(f"{in_parts}/complete", json={"parts": named[::-1]}).status_code == 200
    cdn, kind = "/fal/cdn/files/upload", {"Content-Type": "text/plain", "X-Fal-File-Name": "hello.txt"}
    third = uploading.post(cdn, data=b"<html>").get_json()["access_url"].removeprefix(BASE)
    fourth = uploading.post(cdn, data=b"hello", headers=kind).get_json()["access_url"].removeprefix(BASE)

    for path, content, mimetype in (
        (first, image, "image/png"),
        (second, image, "image/png"),
        (third, b"<html>", "application/octet-stream"),
        (fourth, b"hello", "text/plain"),
    ):
        response = uploading.get(path, buffered=True)
        assert (response.status_code, response.mimetype, response.data) == (200, mimetype, content)
        assert place.get(f"of/farm/{path.removeprefix('/files/')}")["ContentType"] == mimetype
    assert response.headers["Content-Disposition"] == "attachment; filename*=UTF-8''hello.txt"
    assert len(place.names()) == 4
    assert list(tmp_path.iterdir()) == []


def test_while_the_store_is_down_uploads_are_503_and_can_go_on(
    uploading: FlaskClient, way: FaultyWay, place: Place
) -> None:
    whole, first = begin(uploading)
    in_parts, second = begin(uploading, "initiate-multipart")
    named = [uploading.put(f"{in_parts}/1", data=b"part").get_json()]
    ways_in: list[Callable[[], TestResponse]] = [
        lambda: uploading.put(whole, data=b"whole"),
        lambda: uploading.put(f"{in_parts}/1", data=b"part"),
        lambda: uploading.post(f"{in_parts}/complete", json={"parts": named}),
        lambda: uploading.post("/fal/cdn/files/upload", data=b"x"),
    ]

    way.go_down()
    for send in ways_in:
        response = send()
        assert fal_error(response, 503)["error_type"] == "internal_error"
        assert response.headers["Retry-After"] == "5"
    way.come_up()

    assert [send().status_code for send in ways_in] == [200] * 4
    assert uploading.get(first, buffered=True).data == b"whole"
    assert uploading.get(second, buffered=True).data == b"part"
    assert len(place.names()) == 3


def test_a_part_that_breaks_off_makes_no_file(uploading: FlaskClient, way: FaultyWay, place: Place) -> None:
    in_parts, file = begin(uploading, "initiate-multipart")
    content = bytes(1_000_000)
    named = [uploading.put(f"{in_parts}/1", data=content).get_json()]
    way.inject(Fault(cut_after=500_000), "GET")

    fal_error(uploading.post(f"{in_parts}/complete", json={"parts": named}), 503)
    way.heal()
    assert len(place.names()) == 1

    assert uploading.post(f"{in_parts}/complete", json={"parts": named}).status_code == 200
    assert uploading.get(file, buffered=True).data == content


# A bucket in another region than the configured one

EACH_CALL: dict[str, Callable[[S3Storage, str], object]] = {
    "put": lambda storage, key: storage.put(key, b"content"),
    "put of a file": lambda storage, key: storage.put_file(key, io.BytesIO(b"content")),
    "find": lambda storage, key: storage.find(key),
    "read": lambda storage, key: storage.read(key),
    "open": lambda storage, key: storage.open(key, 0, 7).close(),
    "page": lambda storage, _key: storage.page(""),
    "marks": lambda storage, _key: storage.marks(),
    "mark": lambda storage, _key: storage.mark("1" * 32),
    "has mark": lambda storage, _key: storage.has_mark("0" * 32),
    "delete job": lambda storage, _key: storage.delete_job(JOB),
    "remove": lambda storage, key: storage.remove(key),
}


@pytest.mark.parametrize("call", EACH_CALL.values(), ids=EACH_CALL.keys())
def test_every_call_may_be_the_first_one_to_a_bucket_in_another_region(
    reach: Reach, key: str, monkeypatch: pytest.MonkeyPatch, call: Callable[[S3Storage, str], object]
) -> None:
    configured = reach()
    configured.put(key, b"content")
    configured.mark("0" * 32)
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")

    assert call(reach(), key) is not False  # which would be a mark that is not seen


def test_a_signed_url_names_the_region_that_was_learned_at_the_start(
    reach: Reach, key: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    reach().put(key, b"content")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "eu-west-1")
    storage = reach(url_seconds=60)
    assert not storage.has_mark("1" * 32)

    url = storage.url(key)

    assert url is not None
    assert urllib3.request("GET", url).data == b"content"
