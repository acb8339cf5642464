"""The pages `docs/coming-from-…` against the dialects."""

from __future__ import annotations

import pytest

from farm.dialects import fal, openai_common, wavespeed
from farm.domain.catalogue import MAX_PROMPT, MAX_SIDE, MIN_SIDE, MODELS, TERMS
from farm.settings import Settings
from tests.docs_snippets import DOCS

PAGES = ("fal", "wavespeed", "aimlapi", "siraya", "openai")


def page(name: str) -> str:
    return (DOCS / f"coming-from-{name}.md").read_text()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_names_every_id_that_its_callers_use(name: str) -> None:
    """Some ids of the farm's own models mean, at OpenAI's paths, only what shorter ones mean there."""
    ids = {model_id for model in MODELS for model_id in model.of(name)}
    longer = {"srpo-image-to-image", "kontext-text-to-image", "kontext-multi"} if name == "openai" else set()

    assert {model_id for model_id in ids - longer if f"`{model_id}`" not in page(name)} == set()


def test_the_headers_that_fal_tolerates_are_on_its_page() -> None:
    rows = [f"| `{header}` | {why} |" for header, why in fal.TOLERATED_HEADERS.items()]

    assert [row for row in page("fal").splitlines() if row.startswith("| `X-")] == rows


@pytest.mark.parametrize("header", [fal.REQUEST_TIMEOUT, fal.LIFECYCLE, fal.STORE_IO, fal.NO_RETRY, fal.RUNNER_HINT])
def test_the_headers_that_fal_honours_are_on_its_page(header: str) -> None:
    assert f"`{header}`" in page("fal")


def test_the_parameters_that_wavespeed_tolerates_are_on_its_page() -> None:
    result = page("wavespeed").rpartition("Taken, and without effect")[2]

    assert wavespeed.TOLERATED == ("strength",)
    assert all(f"`{name}`" in result for name in wavespeed.TOLERATED)


def test_openais_other_parameters_are_on_its_page() -> None:
    result = page("openai").rpartition("|---|---|\n")[2].splitlines()

    assert result == [
        *(f"| `{name}` | accepted without effect: {why} |" for name, why in openai_common.TOLERATED.items()),
        *(f"| `{name}` | rejected: {instead} |" for name, instead in openai_common.REFUSED.items()),
    ]


@pytest.mark.parametrize("name", ["fal", "openai", "aimlapi", "siraya"])
def test_the_default_level_of_acceleration_is_on_the_page(name: str) -> None:
    row = next(line for line in page(name).splitlines() if line.startswith("| `acceleration` |"))

    assert f"`{TERMS[name].acceleration}` by default" in row
    assert "[acceleration.md](acceleration.md)" in row


@pytest.mark.parametrize(
    ("name", "limits"),
    [
        ("fal", [f"{MIN_SIDE}–{MAX_SIDE}"]),
        ("siraya", [f"{MIN_SIDE}–{MAX_SIDE}"]),
        ("openai", [f"{MIN_SIDE}–{MAX_SIDE}", f"1–{MAX_PROMPT}"]),
        ("wavespeed", [f"{TERMS['wavespeed'].sides.min}–{TERMS['wavespeed'].sides.max}"]),
        ("aimlapi", [str(TERMS["aimlapi"].sides)]),
    ],
)
def test_limits_are_the_dialects_own(name: str, limits: list[str]) -> None:
    assert [limit for limit in limits if limit not in page(name)] == []


@pytest.mark.parametrize("name", PAGES)
def test_the_time_a_call_is_held_is_the_settings_own(name: str) -> None:
    assert f"held for {Settings.model_fields['hold_seconds'].default:.0f} s by default" in page(name)
