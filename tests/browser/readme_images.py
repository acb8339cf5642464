"""Renew the README's images of the pages: run `python -m tests.browser.readme_images`, then look at them."""

from __future__ import annotations

import io
import re
import tempfile
from pathlib import Path

from PIL import Image
from playwright.sync_api import Page, expect, sync_playwright

from tests.browser.conftest import launch
from tests.docs_snippets import DOCS
from tests.farms import RunningFarm, running_farm

_PROMPTS = (
    "three yellow stars on a meadow at night",
    "a large red heart in the middle in the snow",
    "two orange triangles on the left by the sea",
)
#: The CPU may be slow, or busy with other things.
_TIMEOUT_MS = 300_000


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = launch(playwright)
        page = browser.new_page(viewport={"width": 1280, "height": 800}, color_scheme="light")
        with running_farm(Path(folder) / "data", FARM_PIPELINE="flux", FARM_GRACE_SECONDS="1") as farm:
            show_playground(page, farm)
            keep(page, "playground")
            show_queue(page, farm)
            keep(page, "queue")
        browser.close()


def show_playground(page: Page, farm: RunningFarm) -> None:
    """Show images, and one as it forms."""
    page.goto(farm.url)
    expect(page.locator("#model option:not([disabled])").first).to_be_attached()
    newest = page.locator("#jobs > li:first-child")
    for seed, prompt in enumerate(_PROMPTS, 1):
        render(page, prompt, seed)
        expect(newest).to_have_attribute("data-status", "completed", timeout=_TIMEOUT_MS)

    page.select_option("#field-image_size", "square_hd")
    page.fill("#field-num_inference_steps", "50")
    page.uncheck("#field-enable_safety_checker")  # which would make the preview small
    render(page, "three red stars by a submarine on a meadow at night", 2)
    expect(newest.get_by_alt_text(re.compile(r"after [2-4]\d steps"))).to_be_visible(timeout=_TIMEOUT_MS)
    page.locator("#form").evaluate("(form) => { form.scrollTo(0, 0); document.activeElement.blur(); }")


def render(page: Page, prompt: str, seed: int) -> None:
    page.fill("#field-prompt", prompt)
    page.fill("#field-seed", str(seed))
    page.click("#run")
    expect(page.locator("#jobs > li:first-child .prompt-text")).to_have_text(prompt)


def show_queue(page: Page, farm: RunningFarm) -> None:
    """Show a job that is rendered while others wait, once the playground's have ended."""
    expect(page.locator("#jobs > li:first-child")).to_have_attribute("data-status", "completed", timeout=_TIMEOUT_MS)
    for _ in range(6):
        farm.submit(prompt="a red star", num_images=4, num_inference_steps=50, image_size="square_hd")
    page.goto(f"{farm.url}/queue")
    expect(page.locator("#workers tbody")).to_contain_text(re.compile(r"step [1-9]\d of 200"), timeout=_TIMEOUT_MS)
    expect(page.locator("#last-hour")).to_contain_text(f"{len(_PROMPTS) + 1} completed", timeout=_TIMEOUT_MS)


def keep(page: Page, name: str) -> None:
    """Save what the page shows among the documentation."""
    Image.open(io.BytesIO(page.screenshot())).save(DOCS / f"{name}.webp", quality=85, method=6)


if __name__ == "__main__":
    main()
