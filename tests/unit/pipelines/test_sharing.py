"""Images in flight together: they join, leave, fail and are prefetched without changing one another."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from farm.domain.acceleration import BUNDLED
from farm.domain.catalogue import BATCH_IMAGES, Weights
from farm.domain.request import ImageRequest
from tests.unit.pipelines.denoising import INPUTS, kontext_of, miniature_parts, pipeline_of, record
from workers.pipelines import sharing
from workers.pipelines.execution import Execution
from workers.pipelines.flux import FluxModels
from workers.pipelines.loading import load_miniature
from workers.pipelines.network import Network
from workers.pipelines.sharing import EXACT, SHARED, Sharing, kept, where_it_pays

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

FOX = ImageRequest("srpo", "a red fox in the snow", width=256, height=256, steps=6, guidance=4.5, seed=7)
#: Of three models and two networks, three sizes, all levels, and various numbers of steps.
REQUESTS = (
    FOX,
    replace(FOX, seed=8, steps=3, guidance=1.0),
    replace(FOX, prompt="two blue whales", steps=8, acceleration="high", guidance=9.0),
    replace(FOX, steps=8, acceleration="regular", seed=2**32 - 1),
    replace(FOX, height=320),
    replace(FOX, height=301, steps=2),
    replace(FOX, width=320, steps=1),
    replace(FOX, model="srpo-image-to-image", strength=0.6, inputs=("red",), steps=10),
    replace(FOX, model="kontext-text-to-image", steps=4),
    replace(FOX, model="srpo-image-to-image", strength=0.0, inputs=("waves",)),
)


class Alone:
    """The pixels of each request, rendered without company."""

    def __init__(self) -> None:
        self._srpo = miniature_parts()
        self._kontext = kontext_of(self._srpo)
        self._known: dict[ImageRequest, bytes] = {}

    def pixels(self, request: ImageRequest) -> bytes:
        if request not in self._known:
            (rendered,) = self.pipeline(EXACT).render([request], lambda *_: True, INPUTS)
            self._known[request] = rendered.pixels
        return self._known[request]

    def pipeline(self, how: Sharing) -> FluxModels:
        """Return a new pipeline of the same weights, with nothing in its caches."""
        networks = {Weights.SRPO: Network(self._srpo), Weights.KONTEXT: Network(self._kontext)}
        return FluxModels(networks, weights="miniature", build="test", sharing=how)

    @contextmanager
    def failing_forwards(self, block: int) -> Iterator[None]:
        """Have every forward of a transformer end with an error in one of its blocks."""

        def fail(*_: Any) -> None:
            raise ValueError("the engine stumbles")

        blocks = [parts.transformer.transformer_blocks for parts in (self._srpo, self._kontext)]
        hooks = [each[block % len(each)].register_forward_pre_hook(fail) for each in blocks]
        yield
        for hook in hooks:
            hook.remove()


@pytest.fixture(scope="module")
def alone() -> Alone:
    return Alone()


def is_alike(pixels: bytes, expected: bytes, how: Sharing) -> bool:
    """Return True if an image is what promise 5 allows: equal, or, in shared forwards, within one of 256 levels."""
    if how is EXACT:
        return pixels == expected
    ours, theirs = (numpy.frombuffer(image, numpy.uint8).astype(int) for image in (pixels, expected))
    differences = abs(ours - theirs)
    return bool(differences.max() <= 1 and (differences > 0).mean() <= 0.02)


class Walk:
    """Images in flight to which random things happen. Each that is finished is compared with what it is alone."""

    def __init__(self, alone: Alone, how: Sharing, draw: Callable[[st.SearchStrategy[Any]], Any]) -> None:
        self._alone = alone
        self._how = how
        self._draw = draw
        self._pipeline = alone.pipeline(how)
        self._flight: list[Any] = []

    def join(self, beside: ThreadPoolExecutor) -> None:
        """Start an image while the prompt of another is encoded in another thread."""
        if len(self._flight) < BATCH_IMAGES:
            beside.submit(self._pipeline.encode_prompt, self._draw(st.sampled_from(REQUESTS)))
            self._flight.append(self._pipeline.start(self._draw(st.sampled_from(REQUESTS)), INPUTS))

    def leave(self) -> None:
        if self._flight:
            self._flight.pop(self._draw(st.integers(0, len(self._flight) - 1)))

    def fail(self) -> None:
        """Break a forward in its middle: all that was in flight is lost, as the worker has it."""
        with self._alone.failing_forwards(self._draw(st.integers(0, 7))), suppress(ValueError):
            while self._unfinished:
                self._pipeline.advance(self._unfinished)
        self._flight.clear()

    def step(self) -> None:
        if self._unfinished:
            self._pipeline.advance(self._unfinished)
        self.compare()

    def compare(self) -> None:
        finished = [image for image in self._flight if image not in self._unfinished]
        for image in finished:
            pixels = self._pipeline.finish(image).pixels
            assert is_alike(pixels, self._alone.pixels(image.request), self._how), image.request
        self._flight = self._unfinished

    def end(self) -> None:
        while self._flight:
            self.step()

    @property
    def _unfinished(self) -> list[Any]:
        return [image for image in self._flight if image.step < image.request.denoising_steps]


@pytest.mark.timeout(900)  # a busy machine
@pytest.mark.parametrize("how", [EXACT, SHARED], ids=str)
def test_whatever_happens_to_others_an_image_is_what_it_is_alone(alone: Alone, how: Sharing) -> None:
    """Random joins, leaves, cancels and errors in mid-step, with prompts encoded in another thread meanwhile."""

    @settings(max_examples=5, derandomize=True, deadline=None, database=None)
    @given(st.data())
    def walk(data: st.DataObject) -> None:
        walk = Walk(alone, how, data.draw)
        with ThreadPoolExecutor(1) as beside:
            for _ in range(data.draw(st.integers(8, 20))):
                join: Callable[[], None] = partial(walk.join, beside)
                data.draw(st.sampled_from((join, join, join, walk.step, walk.step, walk.leave, walk.fail)))()
        walk.end()

    walk()


def start(pipeline: FluxModels, *requests: ImageRequest) -> list[Any]:
    return [pipeline.start(request, INPUTS) for request in requests]


def rows(forwards: list[Any]) -> list[int]:
    """Return how many images each forward computed."""
    return [len(forward["output"]) for forward in forwards]


def test_images_of_a_size_share_a_forward_whatever_else_they_differ_in(parts: Any) -> None:
    forwards: list[Any] = []
    record(parts.transformer, forwards)
    pipeline = pipeline_of(parts, sharing=SHARED)
    others = replace(FOX, prompt="an owl", steps=9, guidance=1.0), replace(FOX, acceleration="high", steps=8)

    pipeline.advance(start(pipeline, FOX, *others, replace(FOX, width=320)))

    assert sorted(rows(forwards)) == [1, 3]


def test_an_image_that_skips_a_step_costs_nothing(parts: Any) -> None:
    forwards: list[Any] = []
    record(parts.transformer, forwards)
    pipeline = pipeline_of(parts, sharing=SHARED)
    mask = BUNDLED.level("high").mask(12)
    images = start(pipeline, replace(FOX, steps=12), replace(FOX, steps=12, acceleration="high"))

    for _ in range(12):
        pipeline.advance(images)

    assert rows(forwards) == [1 + int(digit) for digit in mask]
    forwards.clear()
    (skipping,) = start(pipeline, replace(FOX, steps=12, acceleration="high"))
    for _ in range(12):
        pipeline.advance([skipping])
    assert rows(forwards) == [1] * mask.count("1")


def test_without_sharing_each_image_has_its_own_forward(parts: Any) -> None:
    forwards: list[Any] = []
    record(parts.transformer, forwards)
    pipeline = pipeline_of(parts)

    pipeline.advance(start(pipeline, FOX, replace(FOX, seed=8)))

    assert (rows(forwards), pipeline.capacity, pipeline.capacity_for(FOX)) == ([1, 1], 1, 1)


def test_edits_share_a_forward_if_their_inputs_have_the_same_places(parts: Any) -> None:
    forwards: list[Any] = []
    record(parts.transformer, forwards)
    pipeline = pipeline_of(parts, parts, sharing=SHARED)
    edit = replace(FOX, model="kontext", inputs=("red",))

    pipeline.advance(start(pipeline, edit, replace(edit, seed=8), replace(edit, inputs=("wide",))))

    assert sorted(rows(forwards)) == [1, 2]


def test_auto_shares_forwards_of_the_sizes_at_which_they_pay(
    parts: Any, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Here a forward of four takes as long as one at 512x512, and four times as long at any larger preset."""
    monkeypatch.setattr(
        sharing, "_seconds", lambda _, images: 1.0 if images[0].tokens.shape[1] == 64 else 0.95 * len(images) + 0.05
    )
    execution = Execution(forward="auto", measurements=tmp_path / "forward")

    how = execution.sharing({Weights.SRPO: Network(parts)}, "b")

    pipeline = pipeline_of(parts, sharing=how)
    sizes = ((512, 512), (768, 1024), (640, 512), (256, 256))
    capacities = [pipeline.capacity_for(replace(FOX, width=width, height=height)) for width, height in sizes]
    assert (capacities, pipeline.capacity) == ([4, 1, 1, 1], 4)
    assert str(how) == "shared {'srpo': [64]}"
    assert json.loads((tmp_path / "forward" / "b.json").read_text())["srpo"]["64"] == 4


def test_forwards_are_measured_at_each_preset(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sharing, "_RUNS", 1)
    (gains,) = sharing.measured({Weights.SRPO: Network(parts)}).values()

    assert sorted(gains) == [64, 144, 192, 256]
    assert all(gain > 0.3 for gain in gains.values())


def test_the_first_measurement_holds_for_all_workers(tmp_path: Path) -> None:
    """Else the builds of equal workers would differ by noise."""
    file = tmp_path / "forward" / "b.json"

    def measure_late() -> sharing.Gains:
        kept(file, lambda: {Weights.SRPO: {64: 1.5}})
        return {Weights.SRPO: {64: 1.05}}

    assert kept(file, measure_late) == {Weights.SRPO: {64: 1.5}}
    assert kept(file, dict) == {Weights.SRPO: {64: 1.5}}
    assert list(file.parent.iterdir()) == [file]


def test_a_gain_of_less_than_a_tenth_does_not_pay() -> None:
    how = where_it_pays({Weights.SRPO: {1: 1.09, 2: 1.10}})

    assert [how.capacity_for(Weights.SRPO, count) for count in (1, 2)] == [1, 4]
    assert where_it_pays({Weights.SRPO: {1: 1.0}}).capacity == 1


def test_the_build_says_how_forwards_are_shared() -> None:
    builds = [load_miniature(execution=Execution(forward=forward)).build for forward in ("exact", "shared")]

    assert len(set(builds)) == 2
