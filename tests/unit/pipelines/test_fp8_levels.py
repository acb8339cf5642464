"""Levels of acceleration whose transformer is a copy in fp8, on a device that is taken for one that multiplies so."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from farm.domain.acceleration import BUNDLED, Level
from farm.domain.request import ImageRequest
from farm.process import toolchain
from farm.settings import CompileChoice
from farm.weights.memory_plan import Choice
from tests.unit.pipelines.denoising import record, render
from workers.pipelines import loading
from workers.pipelines.execution import Execution
from workers.pipelines.flux import FluxModels
from workers.pipelines.loading import load_miniature

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

REGULAR = ImageRequest("srpo", "a red star", 256, 256, 8, guidance=4.5, seed=7, acceleration="regular")
HIGH = ImageRequest("srpo", "a red star", 256, 256, 8, guidance=4.5, seed=7, acceleration="high")
LEVELS = BUNDLED.model_copy(update={"high": Level(order=2, masks=BUNDLED.high.masks, quantize="fp8")})


@pytest.fixture
def able(monkeypatch: pytest.MonkeyPatch) -> None:
    """Take the CPU for a device with fp8 units; it multiplies after a cast."""
    monkeypatch.setattr(loading, "multiplies_in_fp8", lambda _: True)


def load(choice: CompileChoice = "off", **settings: Any) -> FluxModels:
    return load_miniature(execution=Execution(compile=choice, levels=LEVELS, **settings))


@pytest.mark.usefixtures("able")
def test_only_the_level_that_says_so_is_computed_in_fp8() -> None:
    full, both, half = load_miniature(), load(), load_miniature(choice=Choice("fp8"))

    assert render(both, REGULAR, HIGH) == [*render(full, REGULAR), *render(half, HIGH)]
    assert render(full, HIGH) != render(half, HIGH)
    both.warm_up()
    assert render(both, HIGH) == render(half, HIGH)


def test_without_units_or_memory_it_is_computed_in_full_and_the_log_says_so(caplog: pytest.LogCaptureFixture) -> None:
    alone = load()

    assert render(alone, HIGH) == render(load_miniature(), HIGH)
    assert "high: rendered in full, not in fp8 as FARM_STEP_MASKS says: cpu has no units" in caplog.text


def test_the_copy_is_a_fact_of_the_build(monkeypatch: pytest.MonkeyPatch) -> None:
    without = load().build
    monkeypatch.setattr(loading, "multiplies_in_fp8", lambda _: True)

    assert load().build != without


@pytest.mark.usefixtures("able")
def test_images_of_two_transformers_share_no_forward() -> None:
    pipeline = load(forward="shared")
    network: Any = pipeline._networks["srpo"]
    forwards: dict[str, list[dict[str, torch.Tensor]]] = {"full": [], "fp8": []}
    record(network._parts.transformer, forwards["full"])
    record(network._fp8_copy, forwards["fp8"])

    images: list[Any] = [pipeline.start(request) for request in (REGULAR, HIGH, HIGH)]
    pipeline.advance(images)

    assert {name: [len(each["output"]) for each in found] for name, found in forwards.items()} == {
        "full": [1],
        "fp8": [2],
    }


@pytest.mark.usefixtures("able")
def test_the_copy_is_compiled_and_warmed_up_behind_everything_else(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(toolchain, "missing", lambda _: None)

    without, both = load_miniature(execution=Execution(compile="on")), load("on")

    counts = [len(pipeline._warm_ups.first) for pipeline in (without, both)]
    assert counts[0] == counts[1]
    assert len(both.later_warm_ups()) == 2 * len(without.later_warm_ups()) + counts[0]
