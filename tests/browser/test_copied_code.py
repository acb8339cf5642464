"""Every request that the playground shows as code runs as pasted, by the clients as they are published."""

from __future__ import annotations

import json
import re
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from playwright.sync_api import Page, expect

from tests import javascript
from tests.browser.copied_code import offered_code, run_code
from tests.farms import RunningFarm, farm_command

#: The first one installs the JavaScript clients.
pytestmark = [pytest.mark.full, pytest.mark.timeout(javascript.INSTALL_SECONDS + 240)]

#: The clients of the dialects that have SRPO.
EVERY_CLIENT = {
    "Shell: curl",
    "Python: fal-client",
    "Python: openai",
    "Python: openai, as at AI/ML API",
    "Python: openai, as at Siraya",
    "Python: wavespeed",
    "JavaScript: @fal-ai/client",
    "JavaScript: openai",
    "JavaScript: openai, as at AI/ML API",
    "JavaScript: openai, as at Siraya",
    "JavaScript: wavespeed",
    "JavaScript: fetch",
}
FAL_AND_NATIVE = {"Shell: curl", "Python: fal-client", "JavaScript: @fal-ai/client", "JavaScript: fetch"}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the file of an input image that is too large for one argument of a command."""
    path = tmp_path / "source.png"
    Image.effect_noise((512, 512), 90).save(path)
    assert path.stat().st_size > 131_072
    return path


def open_form(page: Page, farm: RunningFarm, model: str) -> None:
    page.goto(farm.url)
    expect(page.locator("#model option:not([disabled])").first).to_be_attached()
    page.select_option("#model", model)
    page.fill("#field-prompt", 'a "fox" & a crow, $HOME')
    page.fill("#field-seed", "3")


def settings_of(farm: RunningFarm, job: dict[str, Any]) -> dict[str, Any]:
    """Return the parameters that are written into the first image of a job."""
    image = Image.open(BytesIO(farm.fetch(job["images"][0]["url"])))
    parameters: dict[str, Any] = json.loads(image.text["parameters"])  # type: ignore[attr-defined]
    return parameters


def run_each(farm: RunningFarm, codes: dict[str, str]) -> list[dict[str, Any]]:
    """Run the code for each client, and return the jobs that they made."""
    jobs = []
    for name, code in codes.items():
        assert farm.url in run_code(name, code), name
        (newest,) = farm.call("GET", "/farm/v1/jobs?limit=1").json["jobs"]
        jobs.append(farm.wait_for_end(newest["id"]))
        assert jobs[-1]["status"] == "completed", name
    assert len({job["id"] for job in jobs}) == len(codes)
    return jobs


def test_every_client_renders_the_same_image(page: Page, farm: RunningFarm) -> None:
    open_form(page, farm, "srpo")
    page.select_option("#field-output_format", "png", force=True)

    codes = offered_code(page)

    assert set(codes) == EVERY_CLIENT
    settings = [settings_of(farm, job) for job in run_each(farm, codes)]
    assert all(one == settings[0] for one in settings)


def test_the_code_has_what_was_set(page: Page, farm: RunningFarm) -> None:
    open_form(page, farm, "srpo")
    page.select_option("#field-acceleration", "high")
    page.fill("#field-guidance_scale", "7.5")
    page.fill("#field-num_images", "2")

    codes = offered_code(page)
    jobs = run_each(farm, codes)

    # WaveSpeed's dialect makes one image at a time, with every step in full.
    assert set(codes) == {name for name in EVERY_CLIENT if "wavespeed" not in name}
    assert {(job["num_images"], job["seed"]) for job in jobs} == {(2, 3)}
    assert len({job["timings"]["full_steps"] for job in jobs}) == 1


@pytest.mark.parametrize(("model", "images"), [("srpo-image-to-image", 1), ("kontext", 1), ("kontext-multi", 4)])
def test_an_input_image_is_in_the_code(page: Page, farm: RunningFarm, source: Path, model: str, images: int) -> None:
    open_form(page, farm, model)
    field = "#field-image_urls" if model == "kontext-multi" else "#field-image_url"
    page.set_input_files(field, [source] * images)
    expect(page.locator(".thumbnails li")).to_have_count(images)

    codes = offered_code(page)

    wavespeed = {name for name in EVERY_CLIENT if "wavespeed" in name}
    assert set(codes) == FAL_AND_NATIVE | (wavespeed if model == "srpo-image-to-image" else set())
    assert all(len(job["inputs"]) == images for job in run_each(farm, codes))


def test_a_farm_with_keys_is_called_with_the_key_of_the_environment(page: Page, farm_with_keys: RunningFarm) -> None:
    made = farm_command("keys", "create", "bob", "--data-dir", str(farm_with_keys.data_dir))
    key = re.findall(r"\S{20,}", made.stdout)[-1]
    page.goto(farm_with_keys.url)
    page.fill("#key", key)
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#model option:not([disabled])").first).to_be_attached()
    page.fill("#field-prompt", "a fox")

    codes = offered_code(page)

    assert set(codes) == EVERY_CLIENT
    assert not any(key in code for code in codes.values())
    for name, code in codes.items():
        assert farm_with_keys.url in run_code(name, code, key=key), name


@pytest.mark.parametrize(
    ("fields", "excluded"),
    [
        ({"seed": "0"}, "AI/ML API"),
        ({"seed": str(2**31)}, "wavespeed"),
        ({"image_size-width": "1000", "image_size-height": "1000"}, "AI/ML API"),
        ({"image_size-width": "2000", "image_size-height": "1000"}, "wavespeed"),
    ],
)
def test_a_client_that_cannot_be_told_the_same_is_not_offered(
    page: Page, farm: RunningFarm, fields: dict[str, str], excluded: str
) -> None:
    open_form(page, farm, "srpo")
    page.select_option("#field-image_size", "custom" if "image_size-width" in fields else "square")
    for name, value in fields.items():
        page.fill(f"#field-{name}", value)

    names = offered_code(page)

    assert not [name for name in names if excluded in name]
    assert FAL_AND_NATIVE | {"Python: openai"} <= set(names)
