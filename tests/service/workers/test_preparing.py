"""The preparer: images fetched from real hosts, prompts enhanced, and each job prepared once, whatever happens."""

from __future__ import annotations

import gzip
import io
import sys
import threading
import zlib
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from farm.auth.api_keys import LOCAL, Caller
from farm.bootstrap import Farm
from farm.domain.error_codes import Code
from farm.domain.errors import StorageUnavailable
from farm.domain.job import Job, Order, Source, State
from farm.images import decode
from farm.jobstore import redis_keys
from farm.jobstore.store import MAX_PREPARATION_ATTEMPTS
from farm.ssrf_safe_http import SsrfSafeClient
from farm.storage.storage import parse_key
from tests.farms import wait_for
from tests.hostile_images import encoded, png_of, quarters
from tests.image_host import Host, running_host
from tests.images import data_uri, sample_image
from tests.service.images.test_intake import stored
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import BASE, FACTS
from tests.service.workers.worker import FailingStorage
from tests.unit.dialects.samples import a_request
from workers import preparing
from workers.enhancer import EnhancerFailed, LanguageModel, Template
from workers.preparing import Preparer

IMAGE = encoded(quarters(), "PNG")


class Stubborn:
    """An enhancer that always fails."""

    def rewrite(self, prompt: str, model: str) -> str:
        raise EnhancerFailed("The enhancer took too long.")

    def close(self) -> None:
        pass


class Studio:
    """A preparer in this process, and the jobs that it prepares."""

    def __init__(self, farm: Farm, *, seconds: float = 5, **parts: Any) -> None:
        self.farm = farm
        self.preparer = Preparer(
            farm.store,
            storage=parts.get("storage", farm.storage),
            outbound=SsrfSafeClient(frozenset({"127.0.0.1"}), seconds=seconds),
            enhancer=parts.get("enhancer") or Template(),
            wake_ups=farm.wake_ups,
            lease_seconds=parts.get("lease_seconds", 30),
        )

    def submit(self, *sources: Source | str, caller: Caller = LOCAL, **fields: Any) -> str:
        """Submit a job with these input images, plain URLs under `image_url`, and return it."""
        brought = tuple(one if isinstance(one, Source) else Source("image_url", one) for one in sources)
        order = Order("kontext", a_request(**({"model": "kontext"} | fields)), sources=brought)
        return self.farm.service.submit(caller, order).id

    def prepare(self, *sources: Source | str, **fields: Any) -> Job:
        """Return a job with these input images, once it is prepared or has failed, and its thread has tidied up."""
        return self.until_prepared(self.submit(*sources, **fields))

    def until_prepared(self, job_id: str) -> Job:
        def look() -> bool:
            self.preparer.work()
            return is_done(self.record(job_id)) and job_id not in self.preparer._in_progress

        wait_for(look, what=f"{job_id} prepared")
        return self.record(job_id)

    def record(self, job_id: str) -> Job:
        return jobs.record(self.farm.store, job_id)

    def image(self, job: Job, number: int = 0) -> Image.Image:
        return Image.open(io.BytesIO(self.farm.storage.read(job.request.inputs[number])))


def is_done(job: Job) -> bool:
    return job.state.is_terminal or not job.request.needs_preparation


@pytest.fixture
def open_studio(farm: Farm) -> Iterator[Callable[..., Studio]]:
    farm.store.renew("w", FACTS | {"models": "srpo,kontext,kontext-multi"}, [])
    farm.redis.set(redis_keys.PUBLIC_URL, BASE)
    # Addresses of this machine pass the check at submit, as where FARM_WEBHOOK_ALLOW names them.
    farm.service._intake._outbound = SsrfSafeClient(frozenset({"127.0.0.1", "127.0.0.2"}))
    opened: list[Studio] = []

    def open_one(**parts: Any) -> Studio:
        opened.append(Studio(farm, **parts))
        return opened[-1]

    yield open_one
    farm.service._intake._outbound = farm.outbound
    for studio in opened:
        studio.preparer.close()


@pytest.fixture
def studio(open_studio: Callable[..., Studio]) -> Studio:
    return open_studio()


@pytest.fixture
def host() -> Iterator[Host]:
    with running_host() as host:
        yield host


def inputs_of(farm: Farm, job_id: str) -> set[str]:
    """Return the stored inputs of a job."""
    return {key for key in stored(farm) if job_id in key}


# What comes out


def test_a_job_waits_for_no_gpu_before_it_is_prepared(studio: Studio, host: Host) -> None:
    job_id = studio.submit(host.serve("/fox.png", IMAGE))

    assert not studio.farm.store.claim("w", ["kontext"]).batch
    studio.until_prepared(job_id)

    (claimed,) = studio.farm.store.claim("w", ["kontext"]).batch.jobs
    assert claimed.id == job_id
    assert claimed.request.image(0).inputs == studio.record(job_id).request.inputs


def test_an_image_from_a_url_is_stored_as_png(studio: Studio, host: Host) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    photo = encoded(quarters().transpose(Image.Transpose.ROTATE_90), "JPEG", exif=exif, quality=95)
    url = host.serve("/photo.gif?size=1", photo, Content_Type="image/gif")

    job = studio.prepare(url)

    (key,) = job.request.inputs
    name = parse_key(key)
    assert name is not None
    assert (name.job_id, name.extension) == (job.id, "png")
    assert job.request.sources == (url,)
    with studio.image(job) as image:
        assert (image.format, image.mode, image.size) == ("PNG", "RGB", (64, 48))


def test_an_image_sent_with_the_request_is_kept_once(studio: Studio) -> None:
    """The copy replaces the caller's own image, which is no longer needed."""
    job = studio.prepare(data_uri(sample_image(form="WEBP")))

    assert inputs_of(studio.farm, job.id) == set(job.request.inputs)
    assert job.request.sources == job.request.inputs


def test_another_jobs_file_is_copied_and_stays(studio: Studio) -> None:
    first = studio.prepare(data_uri(IMAGE))

    second = studio.prepare(f"{BASE}/files/{first.request.inputs[0]}")

    assert second.request.sources == first.request.inputs
    assert second.request.inputs != first.request.inputs
    assert inputs_of(studio.farm, first.id) == set(first.request.inputs)


def test_several_images_keep_their_order(studio: Studio, host: Host) -> None:
    colours = ["red", "lime", "blue", "white"]
    urls = [host.serve(f"/{colour}", sample_image(colour=colour)) for colour in colours]
    urls[1] = data_uri(sample_image(colour="lime"))

    job = studio.prepare(*(Source(f"image_urls.{n}", url) for n, url in enumerate(urls)), model="kontext-multi")

    assert [studio.image(job, number).getpixel((0, 0)) for number in range(4)] == [
        (255, 0, 0),
        (0, 255, 0),
        (0, 0, 255),
        (255, 255, 255),
    ]


@pytest.mark.parametrize(("sizing", "settled"), [("asked", (320, 320)), ("input", (1000, 300)), ("ratio", (1568, 672))])
def test_the_size_follows_from_the_first_input_where_it_is_to(
    studio: Studio, sizing: str, settled: tuple[int, int]
) -> None:
    first, second = data_uri(sample_image(1000, 300)), data_uri(sample_image(300, 300))

    job = studio.prepare(first, second, sizing=sizing, width=320, height=320, model="kontext-multi")

    assert (job.request.width, job.request.height) == settled


def test_the_prompt_is_enhanced_and_both_texts_are_kept(studio: Studio, host: Host) -> None:
    plain = studio.prepare(model="srpo", prompt="a fox", enhance=True)
    edit = studio.prepare(host.serve("/fox", IMAGE), prompt="make it blue", enhance=True)

    assert plain.request.prompt == Template().rewrite("a fox", "srpo")
    assert plain.request.original_prompt == "a fox"
    assert edit.request.prompt == Template().rewrite("make it blue", "kontext")
    assert len(edit.request.inputs) == 1


def test_an_enhancer_that_fails_costs_no_job(open_studio: Callable[..., Studio]) -> None:
    job = open_studio(enhancer=Stubborn()).prepare(model="srpo", prompt="a fox", enhance=True)

    assert (job.state, job.request.prompt, job.request.original_prompt) == (State.CREATED, "a fox", "a fox")
    assert "took too long" in job.request.notes[0]


# Hosts that misbehave


@pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
def test_a_redirect_is_followed(studio: Studio, host: Host, status: int) -> None:
    host.serve("/b/fox.png", IMAGE)
    host.redirect("/b/c", "fox.png", status)
    url = host.redirect("/a", f"{host.url}/b/c", status)

    assert studio.prepare(url).request.inputs
    assert host.asked == ["/a", "/b/c", "/b/fox.png"]


@pytest.mark.parametrize(
    ("target", "result"),
    [
        ("http://127.0.0.2/secret", "127.0.0.2 is not, or not only, a public address"),
        ("http://169.254.169.254/latest", "public address"),
        ("file:///etc/passwd", "http"),
        ("//localhost:1/x", "private name"),
    ],
)
def test_every_address_on_the_way_is_checked(studio: Studio, host: Host, target: str, result: str) -> None:
    job = studio.prepare(host.redirect("/a", target))

    assert (job.state, job.code) == (State.FAILED, "file_download_error")
    assert result in job.error
    assert job.error.startswith("image_url (127.0.0.1): ")


def test_three_redirects_are_followed_and_four_are_not(studio: Studio, host: Host) -> None:
    host.serve("/4", IMAGE)
    for number in (3, 2, 1, 0):
        host.redirect(f"/{number}", f"/{number + 1}")

    assert studio.prepare(f"{host.url}/1").state is State.CREATED
    failed = studio.prepare(f"{host.url}/0")

    assert (failed.code, "more than 3 times" in failed.error) == ("file_download_error", True)


@pytest.mark.parametrize("status", [204, 304, 400, 403, 404, 410, 418])
def test_a_refusal_of_the_host_ends_the_job(studio: Studio, host: Host, status: int) -> None:
    job = studio.prepare(host.serve("/fox.png", b"", status))

    assert (job.state, job.code) == (State.FAILED, "file_download_error")
    assert f"127.0.0.1 answered {status}" in job.error
    assert len(host.asked) == 1


@pytest.mark.parametrize("status", [429, 500, 503])
def test_a_host_in_trouble_is_asked_again(studio: Studio, host: Host, status: int) -> None:
    def recover(request: Any) -> None:
        host.serve("/fox.png", IMAGE)
        request.send_error(status)

    assert studio.prepare(host.behave("/fox.png", recover)).request.inputs
    assert len(host.asked) == 2


def test_a_host_that_stays_in_trouble_ends_the_job(studio: Studio, host: Host) -> None:
    job = studio.prepare(host.serve("/fox.png", b"", 503))

    assert (job.code, len(host.asked)) == ("file_download_error", 3)
    assert "answered 503" in job.error


def test_a_host_that_is_not_there_ends_the_job(studio: Studio, host: Host) -> None:
    host.stop()

    job = studio.prepare(f"{host.url}/fox.png")

    assert job.code == "file_download_error"
    assert "refuses the connection" in job.error


def test_a_host_that_hangs_ends_the_job_when_its_time_is_up(
    open_studio: Callable[..., Studio], host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(preparing, "_HOST_SECONDS", 0.1)
    studio = open_studio(seconds=0.3)

    job = studio.prepare(host.hold("/fox.png", IMAGE))

    assert job.code == "file_download_error"
    assert "in time" in job.error


def test_hosts_that_answer_slowly_one_after_the_other_have_one_time_together(
    studio: Studio, host: Host, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them alone would have kept the limit of a call."""
    monkeypatch.setattr(preparing, "FETCH_SECONDS", 1.5)
    host.serve("/3", IMAGE)
    for number in range(3):
        host.redirect(f"/{number}", f"/{number + 1}")
    for number in range(4):
        host.delay(f"/{number}", 0.6)

    job = studio.prepare(f"{host.url}/0")

    assert (job.code, "in time" in job.error) == ("file_download_error", True)


def test_a_redirect_to_an_invalid_url_fails_the_job(studio: Studio, host: Host) -> None:
    job = studio.prepare(host.redirect("/a", "http://[here/"))

    assert (job.state, job.code) == (State.FAILED, "file_download_error")
    assert "127.0.0.1 redirects to an invalid URL" in job.error


def test_hosts_that_hang_do_not_delay_other_jobs(studio: Studio, host: Host) -> None:
    for number in range(preparing.MAX_JOBS_PER_CALLER - 1):
        studio.submit(host.hold(f"/slow/{number}", IMAGE))

    assert studio.prepare(data_uri(IMAGE)).request.inputs
    studio.preparer.work()  # all that may be is in progress, so it returns at once
    host.released.set()


def test_hosts_that_hang_for_one_caller_do_not_delay_another(studio: Studio, host: Host) -> None:
    """However many jobs it has."""
    slow = [studio.submit(host.hold(f"/slow/{number}", IMAGE)) for number in range(2 * preparing.MAX_CONCURRENT_JOBS)]
    studio.preparer.work()
    own = studio.farm.redis.hgetall(f"{redis_keys.PREFIX}preparing_count")

    for _ in range(2):
        other = studio.submit(data_uri(IMAGE), caller=replace(LOCAL, id="bob"))
        assert studio.until_prepared(other).request.inputs

    assert own == {"local": str(preparing.MAX_JOBS_PER_CALLER)}
    host.released.set()
    for job_id in slow:
        assert studio.until_prepared(job_id).request.inputs


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"<!doctype html><title>Sign in</title>", "image_load_error"),
        (b"", "image_load_error"),
        (IMAGE[: len(IMAGE) // 2], "image_load_error"),
        (encoded(quarters(), "GIF"), "unsupported_image_format"),
        (sample_image(10, 10), "image_too_small"),
        (png_of(9000, 9000, rows=b""), "image_too_large"),
        (IMAGE + bytes(decode.MAX_BYTES), "file_too_large"),
    ],
    ids=["html", "nothing", "cut off", "gif", "small", "huge", "large"],
)
def test_an_unusable_image_fails_the_job_and_is_named_by_its_field(
    studio: Studio, host: Host, content: bytes, code: str
) -> None:
    good = Source("image_urls.0", data_uri(IMAGE))

    job = studio.prepare(good, Source("image_urls.1", host.serve("/x", content)), model="kontext-multi")

    assert (job.state, job.code) == (State.FAILED, code)
    assert job.error.startswith("image_urls.1 (127.0.0.1): the image")
    assert inputs_of(studio.farm, job.id) == set(job.request.sources[:1])


def test_a_file_that_went_away_ends_the_job(studio: Studio) -> None:
    job_id = studio.submit(data_uri(IMAGE))
    studio.farm.storage.remove(studio.record(job_id).request.sources[0])

    job = studio.until_prepared(job_id)

    assert (job.code, job.error) == ("file_download_error", "image_url: the farm no longer has this file")


# Whatever happens


def test_a_storage_that_is_away_for_a_while_costs_no_job(
    farm: Farm, open_studio: Callable[..., Studio], host: Host
) -> None:
    storage = FailingStorage(farm.storage, StorageUnavailable(), lambda tried: tried >= 3)
    studio = open_studio(storage=storage)

    job = studio.prepare(host.serve("/fox.png", IMAGE))

    assert (job.state, storage.tried) == (State.CREATED, 4)
    assert inputs_of(farm, job.id) == set(job.request.inputs)


def test_a_storage_that_is_away_keeps_no_drain_waiting(
    farm: Farm, open_studio: Callable[..., Studio], host: Host
) -> None:
    """Another preparer goes on with the job, and need not wait for a lease to end."""
    storage = FailingStorage(farm.storage, StorageUnavailable(), lambda _: False)
    studio = open_studio(storage=storage)
    job_id = studio.submit(host.serve("/fox.png", IMAGE))
    studio.preparer.work()
    wait_for(lambda: storage.tried)

    studio.preparer.close()

    job = studio.record(job_id)
    assert (job.state, job.request.needs_preparation) == (State.CREATED, True)
    assert is_done(open_studio().until_prepared(job_id))


def test_a_drain_releases_a_job_between_two_of_its_images(open_studio: Callable[..., Studio], host: Host) -> None:
    """A job of several images is released between two of them."""
    studio = open_studio()
    slow = Source("image_urls.0", host.hold("/slow", IMAGE))
    job_id = studio.submit(slow, Source("image_urls.1", host.serve("/next", IMAGE)), model="kontext-multi")
    studio.preparer.work()
    wait_for(lambda: host.asked)

    studio.preparer.drain()
    host.released.set()
    studio.preparer.close()

    assert (host.asked, inputs_of(studio.farm, job_id)) == (["/slow"], set())
    assert is_done(open_studio().until_prepared(job_id))


def test_a_drain_asks_no_host_again(open_studio: Callable[..., Studio], host: Host) -> None:
    """The job does not fail for attempts that were not made."""
    studio = open_studio()

    def refuse(request: Any) -> None:
        studio.preparer.drain()
        request.send_error(503)

    job_id = studio.submit(host.behave("/fox.png", refuse))
    studio.preparer.work()
    wait_for(lambda: host.asked)
    studio.preparer.close()

    assert (len(host.asked), studio.record(job_id).state) == (1, State.CREATED)


def test_a_drain_does_not_wait_for_the_enhancer_and_its_prompt_is_enhanced_elsewhere(
    open_studio: Callable[..., Studio], tmp_path: Path
) -> None:
    enhancer = LanguageModel(tmp_path, answer_seconds=600, load_seconds=600)
    program = f"open({str(tmp_path / 'started')!r}, 'w'); import time; time.sleep(600)"
    enhancer._program = [sys.executable, "-c", program]
    studio = open_studio(enhancer=enhancer)
    job_ids = [studio.submit(model="srpo", prompt="a fox", enhance=True) for _ in range(3)]
    studio.preparer.work()
    wait_for((tmp_path / "started").exists)

    studio.preparer.close()

    assert [studio.record(job_id).request.needs_preparation for job_id in job_ids] == [True] * 3
    other = open_studio()
    for job_id in job_ids:
        assert other.until_prepared(job_id).request.notes == ()


def test_drains_do_not_count(open_studio: Callable[..., Studio], host: Host) -> None:
    opened: list[Studio] = []

    def refuse(request: Any) -> None:
        opened[-1].preparer.drain()
        request.send_error(503)

    job_id = open_studio().submit(host.behave("/fox.png", refuse))
    for _ in range(MAX_PREPARATION_ATTEMPTS + 1):
        opened.append(open_studio())
        opened[-1].preparer.work()
        wait_for(lambda: len(host.asked) == len(opened))
        opened[-1].preparer.close()
    assert len(host.asked) == MAX_PREPARATION_ATTEMPTS + 1
    host.serve("/fox.png", IMAGE)

    assert open_studio().until_prepared(job_id).request.inputs


def test_a_fault_of_the_farm_ends_the_job_and_tells_nothing_of_it(
    open_studio: Callable[..., Studio], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Faulty(Template):
        def rewrite(self, prompt: str, model: str) -> str:
            raise KeyError("boom")

    job = open_studio(enhancer=Faulty()).prepare(model="srpo", enhance=True)

    assert (job.state, job.code) == (State.FAILED, "internal_error")
    assert "boom" not in job.error


def test_a_job_that_is_cancelled_meanwhile_leaves_no_copies(studio: Studio, host: Host) -> None:
    job_id = studio.submit(host.hold("/fox.png", IMAGE))
    studio.preparer.work()
    wait_for(lambda: host.asked)

    assert studio.farm.service.cancel(LOCAL, job_id) == "cancelled"
    host.released.set()
    studio.preparer.close()

    job = studio.record(job_id)
    assert (job.state, job.code) == (State.FAILED, Code.CANCELLED)
    assert inputs_of(studio.farm, job_id) == set()


def test_no_further_image_of_a_cancelled_job_is_fetched(studio: Studio, host: Host) -> None:
    slow = Source("image_urls.0", host.hold("/slow", IMAGE))
    job_id = studio.submit(slow, Source("image_urls.1", host.serve("/next", IMAGE)), model="kontext-multi")
    studio.preparer.work()
    wait_for(lambda: host.asked)

    studio.farm.service.cancel(LOCAL, job_id)
    host.released.set()
    studio.preparer.close()

    assert (host.asked, inputs_of(studio.farm, job_id)) == (["/slow"], set())
    assert studio.record(job_id).code == Code.CANCELLED


def test_of_two_preparers_one_wins_and_the_other_leaves_nothing(
    farm: Farm, open_studio: Callable[..., Studio], host: Host
) -> None:
    """The first is held up beyond its lease, and the second comes."""
    slow, quick = open_studio(), open_studio()
    job_id = slow.submit(host.hold("/fox.png", IMAGE))
    slow.preparer.work()
    wait_for(lambda: host.asked)
    host.serve("/fox.png", IMAGE)
    farm.redis.zadd(redis_keys.PREPARING, {job_id: 0})

    job = quick.until_prepared(job_id)
    host.released.set()
    slow.preparer.close()

    assert studio_request(farm, job_id) == job.request
    assert inputs_of(farm, job_id) == set(job.request.inputs)


def studio_request(farm: Farm, job_id: str) -> Any:
    return jobs.record(farm.store, job_id).request


def test_a_preparation_longer_than_its_lease_is_kept_by_heartbeats(
    farm: Farm, open_studio: Callable[..., Studio], host: Host
) -> None:
    slow, other = open_studio(), open_studio()
    job_id = slow.submit(host.hold("/fox.png", IMAGE))
    slow.preparer.work()
    wait_for(lambda: host.asked)
    farm.redis.zadd(redis_keys.PREPARING, {job_id: 0})

    slow.preparer.hold()
    other.preparer.work()
    other.preparer.close()
    assert host.asked == ["/fox.png"]

    host.released.set()
    assert is_done(slow.until_prepared(job_id))


def test_after_a_preparer_has_died_another_one_takes_the_job(
    farm: Farm, open_studio: Callable[..., Studio], host: Host
) -> None:
    studio = open_studio()
    job_id = studio.submit(host.serve("/fox.png", IMAGE))
    assert farm.store.claim_unprepared(1, 0.05)  # and never says anything again

    assert is_done(studio.until_prepared(job_id))


def test_a_preparer_that_drains_takes_nothing_new(studio: Studio) -> None:
    studio.preparer.drain()
    job_id = studio.submit(data_uri(IMAGE))

    studio.preparer.work()
    studio.preparer.close()

    assert studio.record(job_id).request.needs_preparation
    assert [job.id for job in studio.farm.store.claim_unprepared(1, 60)] == [job_id]


def test_many_jobs_are_prepared_each_once(studio: Studio, host: Host) -> None:
    url = host.serve("/fox.png", IMAGE)
    ids = [studio.submit(url, seed=number) for number in range(40)]
    threads = [threading.Thread(target=studio.preparer.work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)

    for job_id in ids:
        studio.until_prepared(job_id)

    assert len(host.asked) == 40
    assert all(len(inputs_of(studio.farm, job_id)) == 1 for job_id in ids)


@pytest.mark.parametrize("encoding", ["gzip", "x-gzip", "GZIP", "deflate", "identity"])
def test_an_encoding_that_was_not_asked_for_is_undone(studio: Studio, host: Host, encoding: str) -> None:
    sent = {"identity": IMAGE, "deflate": zlib.compress(IMAGE)}.get(encoding, gzip.compress(IMAGE))

    job = studio.prepare(host.serve("/fox.png", sent, Content_Encoding=encoding))

    assert (job.error, len(job.request.inputs)) == ("", 1)


def test_an_unknown_encoding_ends_the_job_and_is_named(studio: Studio, host: Host) -> None:
    job = studio.prepare(host.serve("/fox.png", IMAGE, Content_Encoding="br"))

    assert "its host sent the Content-Encoding 'br'; allowed: none, gzip or deflate" in job.error
