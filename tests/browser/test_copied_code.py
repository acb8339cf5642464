"""Every request that the playground shows as code runs as pasted, by the clients as they are published."""

from __future__ import annotations

import re
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
    "Shell: curl, as at fal",
    "Shell: curl, as at OpenAI",
    "Shell: curl, as at AI/ML API",
    "Shell: curl, as at Siraya",
    "Shell: curl, as at WaveSpeed",
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
WAVESPEED = {name for name in EVERY_CLIENT if "wavespeed" in name.lower()}
#: The clients of the dialects that have every model.
FAL_OPENAI_AND_NATIVE = {name for name in EVERY_CLIENT - WAVESPEED if "AI/ML API" not in name and "Siraya" not in name}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return the file of an input image that is too large for one argument of a command."""
    path = tmp_path / "source.png"
    Image.effect_noise((640, 416), 90).save(path)
    assert path.stat().st_size > 131_072
    return path


def open_form(page: Page, farm: RunningFarm, model: str) -> None:
    page.goto(farm.url)
    expect(page.locator("#model option:not([disabled])").first).to_be_attached()
    page.select_option("#model", model)
    page.fill("#field-prompt", 'a "fox" & a crow, $HOME')
    page.fill("#field-seed", "3")


def rendered(farm: RunningFarm, job: dict[str, Any]) -> list[Any]:
    """Return the images of a job as files, which contain their parameters, and whether they were checked."""
    return [farm.image(job, number) for number in range(job["num_images"])] + [job["has_nsfw_concepts"]]


def newest_job(farm: RunningFarm) -> dict[str, Any]:
    (newest,) = farm.call("GET", "/farm/v1/jobs?limit=1").json["jobs"]
    job = farm.wait_for_end(newest["id"])
    assert job["status"] == "completed", job
    return job


def assert_same_images(page: Page, farm: RunningFarm, clients: set[str]) -> None:
    """Assert that the code for each of these clients, and of no other, renders what the page itself renders."""
    page.click("#run")
    expect(page.locator("#jobs > li:first-child")).to_have_attribute("data-status", "completed")
    ids, wanted = {newest_job(farm)["id"]}, rendered(farm, newest_job(farm))
    codes = offered_code(page)
    assert set(codes) == clients
    for name, code in codes.items():
        assert farm.url in run_code(name, code), name
        job = newest_job(farm)
        ids.add(job["id"])
        assert rendered(farm, job) == wanted, name
    assert len(ids) == 1 + len(codes)


def test_every_client_renders_the_same_image(page: Page, farm: RunningFarm) -> None:
    open_form(page, farm, "srpo")
    page.select_option("#field-output_format", "png", force=True)

    assert_same_images(page, farm, EVERY_CLIENT)


def test_the_code_has_size_steps_and_guidance(page: Page, farm: RunningFarm) -> None:
    open_form(page, farm, "srpo")
    page.select_option("#field-image_size", "custom")
    page.fill("#field-image_size-width", "640")
    page.fill("#field-image_size-height", "512")
    page.fill("#field-num_inference_steps", "9")
    page.fill("#field-guidance_scale", "7.5")

    assert_same_images(page, farm, EVERY_CLIENT)


def test_the_code_has_level_number_and_unchecked_images(page: Page, farm: RunningFarm) -> None:
    open_form(page, farm, "srpo")
    page.select_option("#field-acceleration", "high")
    page.fill("#field-num_images", "2")
    page.uncheck("#field-enable_safety_checker")

    # WaveSpeed's dialect makes one checked image at a time, with every step in full.
    assert_same_images(page, farm, EVERY_CLIENT - WAVESPEED)


def test_the_code_of_a_ratio_renders_that_ratio(page: Page, farm: RunningFarm) -> None:
    open_form(page, farm, "kontext-text-to-image")
    page.select_option("#field-aspect_ratio", "9:16")

    assert_same_images(page, farm, FAL_OPENAI_AND_NATIVE)


@pytest.mark.parametrize(
    ("model", "images", "fields"),
    [
        ("srpo-image-to-image", 1, {"strength": "0.4", "num_inference_steps": "12", "guidance_scale": "7.5"}),
        ("kontext", 1, {"guidance_scale": "6"}),
        ("kontext-multi", 4, {}),
    ],
)
def test_an_input_image_is_in_the_code(
    page: Page, farm: RunningFarm, source: Path, model: str, images: int, fields: dict[str, str]
) -> None:
    open_form(page, farm, model)
    field = "#field-image_urls" if model == "kontext-multi" else "#field-image_url"
    page.set_input_files(field, [source] * images)
    expect(page.locator(".thumbnails li")).to_have_count(images)
    for name, value in fields.items():
        page.fill(f"#field-{name}", value)

    wavespeed = WAVESPEED if model == "srpo-image-to-image" else set()
    assert_same_images(page, farm, FAL_OPENAI_AND_NATIVE | wavespeed)


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
def test_a_client_that_cannot_send_these_fields_is_not_offered(
    page: Page, farm: RunningFarm, fields: dict[str, str], excluded: str
) -> None:
    open_form(page, farm, "srpo")
    page.select_option("#field-image_size", "custom" if "image_size-width" in fields else "square")
    for name, value in fields.items():
        page.fill(f"#field-{name}", value)

    names = offered_code(page)

    assert not [name for name in names if excluded.lower() in name.lower()]
    assert set(names) >= FAL_OPENAI_AND_NATIVE


def test_wavespeed_is_not_offered_for_an_image_whose_size_the_page_cannot_know(page: Page, farm: RunningFarm) -> None:
    open_form(page, farm, "srpo-image-to-image")
    page.get_by_label("URL of an input image").fill("https://images.example/fox.png")

    assert set(offered_code(page)) == FAL_OPENAI_AND_NATIVE
