"""Submits with images: what is stored at once, what is refused where, and what is never kept."""

from __future__ import annotations

import base64
import time
import urllib.parse
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from farm.auth.api_keys import LOCAL, Caller
from farm.bootstrap import Farm
from farm.domain.errors import (
    IdempotencyConflict,
    InvalidRequest,
    Problem,
    QueueFull,
    StorageUnavailable,
    StoreUnavailable,
)
from farm.domain.job import NewJob, Order, Source, Webhook
from farm.domain.limits import Limits
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.storage.storage import new_upload_key, parse_key
from tests.images import data_uri, sample_image
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.service.workers.worker import FailingStorage
from tests.unit.dialects.samples import a_request

IMAGE = sample_image()
STRANGER = "https://images.example/fox.png?size=large"


@pytest.fixture(autouse=True)
def farm_that_is_reached(farm: Farm) -> None:
    farm.store.renew("w", FACTS, [])
    farm.redis.set(redis_keys.PUBLIC_URL, BASE)


def an_upload(*, seconds: float = 3600) -> str:
    """Return the name of an upload that expires in so long."""
    return new_upload_key("png", until=round(time.time() + seconds))


def order(*sources: Source, **changes: Any) -> Order:
    return replace(Order("kontext", a_request(model="kontext"), sources=sources), **changes)


def submit(farm: Farm, *sources: Source, **changes: Any) -> str:
    return farm.service.submit(LOCAL, order(*sources, **changes)).id


def stored(farm: Farm) -> set[str]:
    """Return the names of everything in storage."""
    page = farm.storage.page("")
    found = {one.name for one in page.entries}
    while page.cursor:
        page = farm.storage.page(page.cursor)
        found |= {one.name for one in page.entries}
    return found


@pytest.fixture
def before(farm: Farm) -> set[str]:
    return stored(farm)


def problems(farm: Farm, *sources: Source, **changes: Any) -> list[Problem]:
    """Return the problems of such an order, which leaves nothing behind."""
    before = stored(farm)
    with pytest.raises(InvalidRequest) as caught:
        submit(farm, *sources, **changes)
    assert stored(farm) == before
    assert farm.store.page(None, before_us=None, count=10) == []
    return caught.value.problems


def url_safe(content: bytes) -> str:
    return base64.urlsafe_b64encode(content).decode().rstrip("=")


# What is taken


SPELLINGS: dict[str, Callable[[bytes], str]] = {
    "usual": data_uri,
    "no type": lambda content: f"data:;base64,{base64.b64encode(content).decode()}",
    "another type": lambda content: data_uri(content, "text/html"),
    "with parameters": lambda content: data_uri(content, "image/png;name=a.png"),
    "with many parameters": lambda content: data_uri(content, f"image/png;name={'a' * 300}"),
    "in capitals": lambda content: f"DATA:image/PNG;BASE64,{base64.b64encode(content).decode()}",
    "without padding": lambda content: data_uri(content).rstrip("="),
    "url-safe": lambda content: f"data:image/png;base64,{url_safe(content)}",
    "on several lines": lambda content: f"data:image/png;base64,\n{base64.encodebytes(content).decode()}",
    "percent-encoded base64": lambda content: (
        f"data:image/png;base64,{urllib.parse.quote(base64.b64encode(content), safe='')}"
    ),
    "percent-encoded": lambda content: f"data:image/png,{urllib.parse.quote(content)}",
    "behind white space": lambda content: f" \n{data_uri(content)}",
}


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_data_uri_becomes_the_jobs_own_input(farm: Farm, spelling: str) -> None:
    job = jobs.record(farm.store, submit(farm, Source("image_url", SPELLINGS[spelling](IMAGE))))

    (key,) = job.request.sources
    name = parse_key(key)
    assert name is not None
    assert (name.job_id, name.fence, name.extension) == (job.id, None, "png")
    assert farm.storage.read(key) == IMAGE
    assert job.request.source_fields == ("image_url",)
    assert job.request.needs_preparation


@pytest.mark.parametrize(("form", "extension"), [("JPEG", "jpeg"), ("WEBP", "webp"), ("PNG", "png")])
def test_bytes_are_kept_under_what_they_are(farm: Farm, form: str, extension: str) -> None:
    content = sample_image(form=form)

    (key,) = jobs.record(farm.store, submit(farm, Source("image", content=content))).request.sources

    assert key.endswith(f".{extension}")
    assert farm.storage.read(key) == content


def test_images_are_never_in_redis(farm: Farm) -> None:
    image = sample_image(300, 300, form="JPEG")
    job_id = submit(farm, Source("image_url", data_uri(image)))

    record = farm.redis.hgetall(redis_keys.job(job_id))
    assert isinstance(record, dict)
    assert max(map(len, record.values())) < len(image)
    assert farm.store.page(None, before_us=None, count=1)[0].request.sources[0].startswith(job_id)


@pytest.mark.parametrize(
    "address", [BASE, "http://localhost:8000", "https://bucket.s3.example/prefix", "https://v3.fal.media"]
)
@pytest.mark.parametrize("query", ["", "?X-Amz-Signature=abc", "#top"])
def test_a_file_of_the_farm_is_read_from_storage_however_it_is_reached(farm: Farm, address: str, query: str) -> None:
    key = an_upload()
    farm.storage.put(key, IMAGE)

    job = jobs.record(farm.store, submit(farm, Source("image_url", f"{address}/files/{key}{query}")))

    assert job.request.sources == (key,)


def test_the_farm_may_have_a_private_address(farm: Farm) -> None:
    farm.redis.set(redis_keys.PUBLIC_URL, "http://127.0.0.1:8000")
    key = an_upload()
    farm.storage.put(key, IMAGE)

    assert submit(farm, Source("image_url", f"http://127.0.0.1:8000/files/{key}"))


def test_other_urls_stay_what_they_are(farm: Farm) -> None:
    job = jobs.record(farm.store, submit(farm, Source("image_url", STRANGER)))

    assert job.request.sources == (STRANGER,)


def test_several_images_keep_their_order(farm: Farm) -> None:
    key = an_upload()
    farm.storage.put(key, IMAGE)
    sources = (data_uri(sample_image(20, 20)), STRANGER, f"{BASE}/files/{key}", data_uri(sample_image(30, 30)))

    job = jobs.record(
        farm.store, submit(farm, *(Source(f"image_urls.{number}", url) for number, url in enumerate(sources)))
    )

    first, second, third, fourth = job.request.sources
    assert (second, third) == (STRANGER, key)
    assert [farm.storage.read(first), farm.storage.read(fourth)] == [sample_image(20, 20), sample_image(30, 30)]
    assert job.request.source_fields == tuple(f"image_urls.{number}" for number in range(4))


# What is refused


@pytest.mark.parametrize(
    ("source", "kind", "result"),
    [
        (Source("f", data_uri(b"no image")), "image_load_error", "cannot be read"),
        (Source("f", data_uri(IMAGE[:40])), "image_load_error", "cannot be read"),
        (Source("f", "data:image/png;base64,@@@"), "image_load_error", "not valid base64"),
        (Source("f", "data:image/png;base64,é"), "image_load_error", "not valid base64"),
        (Source("f", "data:image/png;base64,"), "image_load_error", "cannot be read"),
        (Source("f", "data:image/png;base64"), "image_load_error", "has no comma"),
        (Source("f", "data:image/png," + "%41" * 1_000_001), "image_load_error", "base64"),
        (Source("f", f"{BASE}/docs"), "file_download_error", "has deleted it"),
        (Source("f", data_uri(sample_image(8, 8))), "image_too_small", "16 pixels"),
        (Source("f", data_uri(sample_image(form="GIF"))), "unsupported_image_format", "GIF"),
        (Source("f", content=b""), "image_load_error", "cannot be read"),
        (Source("f", content=sample_image(form="BMP")), "unsupported_image_format", "BMP"),
        (Source("f", "ftp://images.example/a.png"), "file_download_error", "http://"),
        (Source("f", "file:///etc/passwd"), "file_download_error", "http://"),
        (Source("f", "http://127.0.0.1:6379/a.png"), "file_download_error", "public address"),
        (Source("f", "http://[::1]/a.png"), "file_download_error", "public address"),
        (Source("f", "http://169.254.169.254/latest/meta-data"), "file_download_error", "public address"),
        (Source("f", "http://user:secret@images.example/a.png"), "file_download_error", "user name"),
        (Source("f", "https://[images/a.png"), "file_download_error", "URL"),
        (Source("f", "fox.png"), "file_download_error", "http"),
        (Source("f", f"{BASE}/files/{an_upload()}"), "file_download_error", "has deleted it"),
    ],
)
def test_an_unusable_source_is_refused_by_its_field(farm: Farm, source: Source, kind: str, result: str) -> None:
    (problem,) = problems(farm, source)

    assert (problem.field, problem.kind) == ("f", kind)
    assert result in problem.message


def test_an_expired_upload_is_refused_before_it_is_removed(farm: Farm) -> None:
    key = an_upload(seconds=-1)
    farm.storage.put(key, IMAGE)

    (problem,) = problems(farm, Source("image_url", f"{BASE}/files/{key}"))

    assert (problem.kind, problem.field) == ("file_download_error", "image_url")


def test_an_upload_that_is_too_large_is_refused(farm: Farm) -> None:
    key = an_upload()
    farm.storage.put(key, bytes(50_000_001))

    (problem,) = problems(farm, Source("image_url", f"{BASE}/files/{key}"))
    farm.storage.remove(key)

    assert (problem.kind, problem.context) == ("file_too_large", {"max_size": 50_000_000})


def test_an_error_of_an_image_has_the_limits(farm: Farm) -> None:
    (problem,) = problems(farm, Source("image_url", data_uri(sample_image(8, 8))))

    assert problem.context == {"min_width": 16, "min_height": 16}


def test_an_error_repeats_a_url_but_not_a_whole_image(farm: Farm) -> None:
    uri, url, content = problems(
        farm,
        Source("a", data_uri(b"x" * 5000)),
        Source("b", "ftp://images.example/" + "a" * 100),
        Source("c", content=b"x" * 5000),
    )

    assert str(uri.value).startswith("data:image/png;base64,")
    assert len(str(uri.value)) < 100
    assert url.value == "ftp://images.example/" + "a" * 100
    assert content.value is None


def test_a_data_uri_that_is_far_too_long_is_not_decoded(farm: Farm) -> None:
    (problem,) = problems(farm, Source("image_url", "data:image/png;base64," + "A" * 100_000_001))

    assert problem.kind == "file_too_large"


def test_all_errors_are_shown_at_once_and_corrected_ones_disappear(farm: Farm) -> None:
    found = problems(
        farm,
        Source("image_urls.0", data_uri(IMAGE)),
        Source("image_urls.1", "ftp://x.example"),
        Source("image_urls.2", data_uri(b"none")),
        request=a_request(model="kontext"),
        webhook=Webhook("http://127.0.0.1/hook"),
    )

    assert [problem.field for problem in found] == ["image_urls.1", "image_urls.2", "webhook_url"]


# What never stays


def test_a_repeat_leaves_nothing_in_storage(farm: Farm) -> None:
    asked = order(Source("image_url", data_uri(IMAGE)), idempotency_key="k", body_digest="d")
    first = farm.service.submit(LOCAL, asked)
    kept = stored(farm)

    again = farm.service.submit(LOCAL, asked)

    assert (again.id, again.repeated) == (first.id, True)
    assert stored(farm) == kept


def test_a_conflict_leaves_nothing_in_storage(farm: Farm) -> None:
    asked = order(Source("image_url", data_uri(IMAGE)), idempotency_key="k", body_digest="d")
    farm.service.submit(LOCAL, asked)
    kept = stored(farm)

    with pytest.raises(IdempotencyConflict):
        farm.service.submit(LOCAL, replace(asked, body_digest="e"))

    assert stored(farm) == kept


def test_a_full_queue_leaves_nothing_in_storage(farm: Farm, before: set[str], monkeypatch: pytest.MonkeyPatch) -> None:
    farm.store.submit(jobs.new_job(LOCAL.id))
    monkeypatch.setattr(farm.store, "_terms", replace(jobs.TERMS, queue_limit=1))

    with pytest.raises(QueueFull):
        submit(farm, Source("image_url", data_uri(IMAGE)))

    assert stored(farm) == before


def test_a_storage_that_fails_halfway_keeps_nothing(
    farm: Farm, before: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    failing = FailingStorage(farm.storage, StorageUnavailable(), lambda tried: tried == 0)
    monkeypatch.setattr(farm.service._intake, "_storage", failing)

    with pytest.raises(StorageUnavailable):
        submit(farm, Source("a", data_uri(IMAGE)), Source("b", data_uri(IMAGE)))

    assert failing.tried == 2
    assert stored(farm) == before
    assert farm.store.page(None, before_us=None, count=10) == []


def test_a_job_that_may_have_been_recorded_keeps_its_images(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The record was written, and the answer was lost."""
    submit_well = JobStore.submit

    def lose_the_answer(store: JobStore, new: NewJob, limits: Limits, *, memory_is_shared: bool) -> None:
        submit_well(store, new, limits, memory_is_shared=memory_is_shared)
        raise StoreUnavailable

    monkeypatch.setattr(JobStore, "submit", lose_the_answer)
    with pytest.raises(StoreUnavailable):
        submit(farm, Source("image_url", data_uri(IMAGE)))

    (job,) = farm.store.page(None, before_us=None, count=10)
    assert farm.storage.read(job.request.sources[0]) == IMAGE


def test_a_job_without_images_needs_no_preparation(farm: Farm) -> None:
    job = jobs.record(farm.store, farm.service.submit(Caller("ada"), Order("srpo", a_request())).id)

    assert (job.request.sources, job.request.needs_preparation) == ((), False)


@pytest.mark.parametrize("length", [2049, 8192])
def test_a_presigned_url_with_a_session_token_is_taken(farm: Farm, length: int) -> None:
    url = "https://images.example/fox.png?X-Amz-Security-Token="
    url += "x" * (length - len(url))

    (problem,) = problems(farm, Source("image_url", url + "x" * (8193 - length)))
    job = farm.store.get(submit(farm, Source("image_url", url)))

    assert "allowed: up to 8192 characters" in problem.message
    assert len(str(problem.value)) < 100
    assert job is not None
    assert job.request.sources == (url,)


@pytest.mark.parametrize("encode", [base64.b64encode, base64.urlsafe_b64encode, base64.encodebytes])
def test_base64_without_its_prefix_is_called_so(farm: Farm, encode: Callable[[bytes], bytes]) -> None:
    for content in (IMAGE, IMAGE * 100):
        (problem,) = problems(farm, Source("image_url", encode(content).decode()))

        assert "base64 without its prefix; allowed: data:image/png;base64,…" in problem.message
        assert len(str(problem.value)) < 100
