"""Previews of a worker: made for those who watch, as small as the request asks, and kept nowhere."""

from __future__ import annotations

import base64
import io
from collections.abc import Sequence
from itertools import pairwise
from types import SimpleNamespace

import pytest
from PIL import Image

from farm.bootstrap import Farm
from farm.domain.preview import Preview
from farm.jobstore import redis_keys
from farm.jobstore.notifications import JobChanges
from farm.jobstore.store import JobStore
from tests.farms import wait_for
from tests.service.jobstore import jobs
from tests.service.workers.worker import Opened
from workers import previews
from workers.pipelines.simulated import SimulatedImage, SimulatedPipeline

#: Seconds between two previews of an image, as the farm takes them.
SECONDS = previews.SECONDS


@pytest.fixture(autouse=True)
def _often(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(previews, "SECONDS", 0.02)


def size_of(preview: Preview) -> tuple[int, int]:
    kind, content = preview.url.split(",")
    assert kind == "data:image/jpeg;base64"
    with Image.open(io.BytesIO(base64.b64decode(content))) as image:
        return image.size


@pytest.mark.parametrize(("safety", "side"), [(True, previews.MAX_CHECKED_SIDE), (False, previews.MAX_SIDE)])
def test_a_watcher_gets_previews_while_images_are_rendered(
    open_worker: Opened, farm: Farm, store: JobStore, changes: JobChanges, safety: bool, side: int
) -> None:
    job_id = jobs.submit(store, width=512, height=384, steps=30, images=2, safety=safety)
    with changes.of(job_id, with_previews=True) as watcher:
        wait_for(lambda: farm.redis.pubsub_numsub(redis_keys.previews_channel(job_id))[0][1], what="a subscription")
        shop = open_worker(pipeline=SimulatedPipeline(step_ms=10), with_previews=True)
        shop.begin()
        seen: list[Preview] = []
        while not jobs.record(store, job_id).state.is_terminal:
            watcher.wait(1)
            watcher.clear()
            seen += [preview for _, preview in watcher.take_previews()]

    assert {preview.image for preview in seen} == {0, 1}
    assert {size_of(preview) for preview in seen} == {(side, side * 3 // 4)}
    for number in (0, 1):
        taken = [preview.step for preview in seen if preview.image == number]
        assert taken == sorted(taken)
        assert 0 < taken[0] <= taken[-1] < 30
    assert farm.redis.keys(f"{redis_keys.PREVIEWS}*") == []


class TenStepsASecond(SimulatedPipeline):
    """Tells how long its steps would have taken."""

    def __init__(self) -> None:
        super().__init__(step_ms=10)
        self.seconds = 0.0

    def advance(self, images: Sequence[SimulatedImage]) -> None:
        super().advance(images)
        self.seconds += 0.1


def test_an_image_is_shown_at_most_each_half_second(
    open_worker: Opened, farm: Farm, store: JobStore, changes: JobChanges, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipeline = TenStepsASecond()
    monkeypatch.setattr(previews, "SECONDS", SECONDS)
    monkeypatch.setattr(previews, "clock", SimpleNamespace(monotonic=lambda: pipeline.seconds))
    job_id = jobs.submit(store, steps=50)
    with changes.of(job_id, with_previews=True) as watcher:
        wait_for(lambda: farm.redis.pubsub_numsub(redis_keys.previews_channel(job_id))[0][1], what="a subscription")
        open_worker(pipeline=pipeline, with_previews=True).end_of(job_id)
        taken = [preview.step for _, preview in watcher.take_previews()]

    assert len(taken) > 1
    assert min(later - earlier for earlier, later in pairwise(taken)) >= 5


class Asked(SimulatedPipeline):
    """Counts the previews that it was asked for, and fails to make any."""

    def __init__(self) -> None:
        super().__init__(step_ms=10)
        self.previews = 0

    def preview(self, _image: SimulatedImage) -> Image.Image:
        self.previews += 1
        raise ValueError("no colours")


def test_no_preview_is_made_without_a_watcher(open_worker: Opened, store: JobStore) -> None:
    pipeline = Asked()
    shop = open_worker(pipeline=pipeline, with_previews=True)
    watched_less = jobs.submit(store, steps=20)

    assert shop.end_of(watched_less).code == ""
    assert pipeline.previews == 0


def test_a_preview_that_fails_harms_no_image(
    open_worker: Opened, farm: Farm, store: JobStore, changes: JobChanges
) -> None:
    pipeline = Asked()
    job_id, other = jobs.submit(store, steps=20), jobs.submit(store, steps=20)
    with changes.of(job_id, with_previews=True):
        wait_for(lambda: farm.redis.pubsub_numsub(redis_keys.previews_channel(job_id))[0][1], what="a subscription")
        shop = open_worker(pipeline=pipeline, with_previews=True)
        watched = shop.end_of(job_id)

    assert pipeline.previews > 0
    assert shop.images(watched) == shop.images(shop.end_of(other))
