"""Pages that stay open: for an hour, over a restart of the farm, with a full history, and beside the miniature."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import BrowserContext, CDPSession, Page, expect

from miniature.drawing import draw
from miniature.scene import FORBIDDEN, Group, Scene
from tests.farms import RunningFarm, free_port, own_redis, running_farm, wait_for
from tests.plain_processes import Api, plain_processes

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

MINUTES = 60


def open_playground(page: Page, farm: RunningFarm) -> None:
    page.goto(farm.url)
    expect(page.locator("#model option:not([disabled])").first).to_be_attached()


def held_by(debugger: CDPSession) -> dict[str, int]:
    """Return what a page holds after a garbage collection: bytes of its heap, nodes and listeners."""
    debugger.send("HeapProfiler.collectGarbage")
    metrics = {one["name"]: one["value"] for one in debugger.send("Performance.getMetrics")["metrics"]}
    return {name: metrics[name] for name in ("JSHeapUsedSize", "Nodes", "JSEventListeners")}


@pytest.fixture
def debugger(context: BrowserContext, page: Page) -> CDPSession:
    session = context.new_cdp_session(page)
    session.send("Performance.enable")
    return session


def assert_not_grown(before: dict[str, int], after: dict[str, int]) -> None:
    assert {name: value for name, value in after.items() if value > before[name] * 1.1} == {}, before


def test_a_queue_view_that_is_open_for_an_hour_does_not_grow(
    page: Page, farm: RunningFarm, debugger: CDPSession
) -> None:
    def minute() -> None:
        job_ids = [farm.submit(num_inference_steps=1) for _ in range(5)]
        for job_id in job_ids:
            farm.wait_for_end(job_id)
        page.clock.run_for(60_000)
        expect(page.locator(f"#jobs tr:has(code[title='{job_ids[-1]}'])")).to_contain_text("completed")

    page.clock.install()
    page.goto(f"{farm.url}/queue")
    for _ in range(12):  # as many jobs as the page shows
        minute()
    before = held_by(debugger)
    for _ in range(MINUTES):
        minute()
    assert_not_grown(before, held_by(debugger))


def test_a_playground_that_is_open_for_an_hour_does_not_grow(
    page: Page, farm: RunningFarm, debugger: CDPSession
) -> None:
    page.clock.install()
    open_playground(page, farm)
    farm.call("POST", "/farm/v1/pause")
    try:
        page.fill("#field-prompt", "a fox that waits")
        page.click("#run")
        expect(page.locator("#jobs > li").first).to_have_attribute("data-status", "created")
        pass_minutes(page, 5)
        expect(page.locator("#waiting")).to_contain_text("paused")
        before = held_by(debugger)
        pass_minutes(page, MINUTES)
        after = held_by(debugger)
    finally:
        farm.call("POST", "/farm/v1/resume")
    assert_not_grown(before, after)


def pass_minutes(page: Page, minutes: int) -> None:
    """Let the page's timers run for some minutes, with an answer to each of its looks at the queue."""
    for _ in range(minutes * 20):
        with page.expect_response("**/farm/v1/queue"):
            page.clock.run_for(3000)


def test_a_farm_that_is_restarted_goes_on_with_what_the_page_shows(page: Page, tmp_path: Path) -> None:
    with running_farm(tmp_path / "data", FARM_SIMULATED_STEP_MS="30", FARM_GRACE_SECONDS="1") as farm:
        open_playground(page, farm)
        page.fill("#field-prompt", "a fox that outlasts a restart")
        page.fill("#field-num_inference_steps", "50")
        page.fill("#field-num_images", "4")
        page.click("#run")
        shown = page.locator("#jobs > li").first
        expect(shown).to_have_attribute("data-status", "processing")

        farm.stop()
        expect(shown.locator(".status")).to_contain_text("does not answer")
        farm.start()

        expect(shown).to_have_attribute("data-status", "completed", timeout=60_000)
        expect(shown.locator("img")).to_have_count(4)


def test_a_farm_without_a_worker_says_so_and_the_page_goes_on_when_one_comes(page: Page, tmp_path: Path) -> None:
    port, tree = free_port(), Path.cwd()
    shown = page.locator("#jobs > li").first
    with own_redis(tmp_path / "redis") as url, plain_processes(tmp_path) as farm:
        settings = {"FARM_REDIS_URL": url, "FARM_REDIS_UNSAFE": "1", "FARM_PIPELINE": "simulated"}
        folder = ["--data-dir", str(tmp_path / "data")]
        farm.start("api", ["api", "--port", str(port), *folder], settings, tree)
        wait_for(Api(port).is_ready)

        page.goto(f"http://127.0.0.1:{port}")
        expect(page.locator("#loading")).to_contain_text("No worker is running.")
        page.fill("#field-prompt", "a fox before its farm")
        farm.start("worker", ["worker", *folder], settings, tree)
        expect(page.locator("#loading")).to_be_hidden(timeout=60_000)
        page.click("#run")
        expect(shown).to_have_attribute("data-status", "completed")
        expect(page.locator("#waiting")).to_be_hidden()

        farm.stop("worker")
        page.reload()
        expect(page.locator("#waiting")).to_have_text("No worker is running: jobs wait until one is.")
        page.fill("#field-prompt", "a fox that waits for a worker")
        page.click("#run")
        expect(shown).to_have_attribute("data-status", "created")
        farm.start("worker", ["worker", *folder], settings, tree)
        expect(shown).to_have_attribute("data-status", "completed", timeout=60_000)
        expect(page.locator("#waiting")).to_be_hidden()


def test_two_hundred_jobs_are_listed_page_by_page(page: Page, farm: RunningFarm) -> None:
    job_ids = [farm.submit(num_inference_steps=1) for _ in range(200)]
    for job_id in job_ids:
        farm.wait_for_end(job_id)
    history: list[dict[str, Any]] = [{"id": job_id, "body": {"model": "srpo", "prompt": "a fox"}} for job_id in job_ids]
    open_playground(page, farm)
    page.evaluate("(entries) => localStorage.setItem('srpo-farm.history', JSON.stringify(entries))", history)
    page.reload()

    for shown in range(24, 200, 24):
        expect(page.locator("#jobs > li[data-status=completed]")).to_have_count(shown)
        page.click("#more")
    expect(page.locator("#jobs > li[data-status=completed]")).to_have_count(200)
    expect(page.locator("#more")).to_be_hidden()

    page.goto(f"{farm.url}/queue")
    for shown in (50, 100, 150):
        expect(page.locator("#jobs tbody tr")).to_have_count(shown)
        page.click("#more")
    expect(page.locator("#jobs tbody tr")).to_have_count(200)
    assert len(set(page.locator("#jobs tbody code").all_text_contents())) == 200


@pytest.fixture(scope="module")
def miniature(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("miniature") / "data", FARM_PIPELINE="flux") as farm:
        yield farm


@pytest.mark.alone
def test_the_first_image_is_there_ten_seconds_after_the_page_was_opened(page: Page, miniature: RunningFarm) -> None:
    begin = time.monotonic()
    open_playground(page, miniature)
    page.locator("#language button").first.click()
    page.click("#run")
    expect(page.locator("#jobs img:not(.preview)")).to_be_visible()

    assert time.monotonic() - begin < 10


def test_a_word_that_the_miniature_does_not_know_is_underlined(page: Page, miniature: RunningFarm) -> None:
    open_playground(page, miniature)
    expect(page.locator("#language")).to_be_visible()
    underlined = page.locator(".shadow u")
    unknown_words = page.locator(".prompt-box [role=status]")

    page.fill("#field-prompt", "a red star by a submarine, twice a submarine")

    expect(underlined).to_have_text(["submarine", "twice", "submarine"])
    expect(unknown_words).to_have_text("Unknown to this model: submarine, twice")
    # The line is under the word, not elsewhere in the field.
    line, field = underlined.first.bounding_box(), page.locator("#field-prompt").bounding_box()
    assert line
    assert field
    assert field["x"] < line["x"] < line["x"] + line["width"] < field["x"] + field["width"]
    assert field["y"] < line["y"] < line["y"] + line["height"] < field["y"] + field["height"]

    page.locator("#language .chip").first.click()
    expect(underlined).to_have_count(0)
    expect(unknown_words).to_be_empty()
    page.click("#run")
    expect(page.locator("#jobs > li").first).to_have_attribute("data-status", "completed", timeout=120_000)


def test_an_unsafe_image_is_a_placeholder_that_says_so(page: Page, miniature: RunningFarm, tmp_path: Path) -> None:
    """Image to image at the least strength gives an image back as it is: the checker sees the drawn shape."""
    for shape in (FORBIDDEN, "star"):
        draw(Scene((Group(shape, "red", size="large"),)), 256, 320).save(tmp_path / f"{shape}.png")
    open_playground(page, miniature)
    page.select_option("#model", "srpo-image-to-image")
    page.fill("#field-prompt", "x")
    page.fill("#field-strength", "0.01")
    shown = page.locator("#jobs > li").first

    page.set_input_files("#field-image_url", tmp_path / f"{FORBIDDEN}.png")
    page.click("#run")
    expect(shown).to_have_attribute("data-status", "completed", timeout=120_000)
    expect(shown.locator("figure")).to_contain_text("Blacked out by the safety checker.")
    expect(shown.locator("img, a, input")).to_have_count(0)
    place = shown.locator(".blocked").bounding_box()
    assert place
    assert place["width"] / place["height"] == pytest.approx(256 / 320, abs=0.02)

    page.set_input_files("#field-image_url", tmp_path / "star.png")
    page.click("#run")
    expect(shown.locator("figure img")).to_be_visible(timeout=120_000)
    expect(shown).not_to_contain_text("safety checker")
