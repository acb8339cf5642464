"""`farm simulate`: what it prints, and how it refuses."""

from __future__ import annotations

import json
from typing import Any

import pytest
from typer.testing import CliRunner

from farm.cli.main import app
from farm.cli.simulate import UnusableMix


def simulated(*options: str) -> str:
    result = CliRunner().invoke(app, ["simulate", "--gpus", "8", "--hours", "1", *options], catch_exceptions=False)
    assert result.exit_code == 0
    return result.stdout


def document(*options: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(simulated("--json", *options))
    return found


def test_more_load_means_longer_waits_and_cheaper_images() -> None:
    calm, busy = (document("--load", load, "--swing", "0", "--price-per-gpu-hour", "2") for load in ("0.3", "0.95"))

    assert calm["utilisation"] == pytest.approx(0.3, abs=0.04)
    assert busy["utilisation"] == pytest.approx(0.93, abs=0.05)
    assert busy["cost_per_1000_images"] < 0.5 * calm["cost_per_1000_images"]
    waits = {name: times["wait_seconds"]["p95"] for name, times in busy["priorities"].items()}
    assert calm["priorities"]["bulk"]["wait_seconds"]["p95"] < waits["normal"] < waits["low"] < waits["bulk"]


def test_a_shared_forward_makes_a_full_farm_faster() -> None:
    exact, shared = (document("--rate", "3", "--forward", forward) for forward in ("exact", "shared"))

    assert shared["jobs"] == exact["jobs"]
    assert shared["seconds"] < exact["seconds"]


def test_a_simulation_prints_a_table() -> None:
    printed = simulated("--price-per-gpu-hour", "2.5", "--priority", "low")

    assert "on 8 cards" in printed
    assert "for 1,000 images" in printed
    assert printed.splitlines()[-1].startswith("low")


@pytest.mark.parametrize(
    "option",
    [
        *(("--size", "huge"), ("--model", "dall-e"), ("--images", "1=x"), ("--images", "1=-1")),
        *(("--images", "1=nan"), ("--size", "square=inf")),
    ],
)
def test_an_option_that_makes_no_trace_is_named(option: tuple[str, str]) -> None:
    with pytest.raises(UnusableMix, match=f"{option[0]} {option[1]}"):
        simulated(*option)


@pytest.mark.parametrize(
    ("words", "ignored"),
    [
        (["simulate", "--trace", "a.csv", "--steps", "28"], "'--steps': it has no effect beside --trace"),
        (["simulate", "--rate", "3", "--load", "0.7"], "'--load': it has no effect beside --rate"),
        (["simulate", "--gain", "1.2"], "'--gain': it has no effect beside --forward exact"),
        (["usage", "--json", "--csv"], "'--csv': it has no effect beside --json"),
    ],
)
def test_an_option_without_effect_is_refused(words: list[str], ignored: str) -> None:
    result = CliRunner().invoke(app, words)

    assert result.exit_code == 2
    assert ignored in " ".join(result.output.replace("│", " ").split())
