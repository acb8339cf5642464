"""The queue view: what it shows, and what an admin does there."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

import openai
import pytest
from playwright.sync_api import Locator, Page, expect

from tests.farms import RunningFarm, farm_command, running_farm
from tests.webhook_receiver import Receiver

GENERATIONS: Literal["/v1/images/generations"] = "/v1/images/generations"


@pytest.fixture(autouse=True)
def _opened(page: Page, farm: RunningFarm) -> Iterator[None]:
    page.goto(f"{farm.url}/queue")
    yield
    farm.call("POST", "/farm/v1/resume")


def row(page: Page, job_id: str) -> str:
    return f"#jobs tr:has(code[title='{job_id}'])"


def test_jobs_appear_and_end_without_a_reload(page: Page, farm: RunningFarm) -> None:
    job_id = farm.submit(num_inference_steps=50)

    expect(page.locator(row(page, job_id))).to_contain_text("completed")
    expect(page.locator("#last-hour")).to_contain_text(re.compile(r"[1-9]\d* completed"))
    expect(page.locator("#workers tbody tr")).to_contain_text("warm")


def test_ids_times_and_states_stay_on_a_line_beside_a_long_prompt(page: Page, farm: RunningFarm) -> None:
    job_id = farm.submit(prompt=f"{'a very long prompt ' * 6}{'x' * 2000}", num_inference_steps=1)
    shown = page.locator(row(page, job_id))
    expect(shown).to_contain_text("completed")

    page.set_viewport_size({"width": 1200, "height": 800})

    for name in ("Submitted", "Id", "Model", "Status"):
        assert lines_of(shown.locator(f"td[data-name={name}] > div")) == 1, name
    for width in (1000, 360):
        page.set_viewport_size({"width": width, "height": 800})
        parts: list[int] = page.locator(".scroll").evaluate_all(
            "(all) => all.map((one) => one.scrollWidth - one.clientWidth)"
        )
        assert parts == [0] * 4, width


def lines_of(shown: Locator) -> int:
    """Return on how many lines a text is."""
    lines: int = shown.evaluate(
        "(node) => { const range = document.createRange(); range.selectNodeContents(node); "
        "return new Set([...range.getClientRects()].map((box) => Math.round(box.bottom))).size; }"
    )
    return lines


def test_the_page_goes_on_after_an_answer_that_was_cut_off(page: Page, farm: RunningFarm) -> None:
    page.route("**/farm/v1/jobs?*", lambda call: call.fulfill(content_type="application/json", body='{"jobs": ['))
    page.reload()
    expect(page.locator("#state")).to_contain_text("cut off")

    page.unroute("**/farm/v1/jobs?*")

    job_id = farm.submit(num_inference_steps=1)
    expect(page.locator(row(page, job_id))).to_contain_text("completed")


def test_the_last_hour_begins_where_the_farm_still_knows_it_and_tells_cancelled_jobs_apart(page: Page) -> None:
    now = datetime.now(UTC)

    def event(number: int, status: str, code: str | None = None) -> str:
        change = {"id": str(number), "status": status, "code": code, "at": now.isoformat()}
        return f"id: {number}-0\nevent: job.{status}\ndata: {json.dumps(change)}\n\n"

    ended = [event(1, "completed"), event(2, "failed", "internal_error"), event(3, "failed", "cancelled")]
    body = "".join(["event: gap\ndata: {}\n\n", *ended])
    page.route("**/farm/v1/events", lambda call: call.fulfill(content_type="text/event-stream", body=body))

    page.reload()

    expect(page.locator("#last-hour p").last).to_have_text(
        re.compile(r"^1 completed, 1 failed and 1 cancelled since \d\d:\d\d:\d\d, at most 3 a minute\.$")
    )
    expect(page.locator("#last-hour rect")).to_have_count(3)


def test_the_rate_of_a_bulk_is_a_plain_number(page: Page) -> None:
    bulk = {"id": "batch_1", "status": "in_progress", "total": 100000, "completed": 5000, "failed": 0}
    times = {"requests_per_minute": 5642.7, "seconds_left": 1010, "expires_at": "2030-01-01T00:00:00Z"}
    page.route("**/farm/v1/bulks", lambda call: call.fulfill(json={"bulks": [bulk | times]}))

    page.reload()

    expect(page.locator("#bulks tbody tr")).to_contain_text("5,640 a minute")


def test_an_admin_pauses_the_farm_cancels_a_waiting_job_and_resumes(page: Page, farm: RunningFarm) -> None:
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#notice")).to_contain_text("Paused")
    job_id = farm.submit()

    page.locator(row(page, job_id)).get_by_role("button", name="Cancel").click()
    expect(page.locator(row(page, job_id))).to_contain_text("cancelled")
    page.get_by_role("button", name="Resume").click()

    expect(page.locator("#notice")).to_be_hidden()
    assert farm.wait_for_end(farm.submit(num_inference_steps=1))["status"] == "completed"


def test_an_admin_retries_a_job_that_failed(page: Page, farm: RunningFarm) -> None:
    asked = {"model": "srpo-image-to-image", "prompt": "a fox", "image_url": "http://127.0.0.1:1/fox.png"}
    job_id = farm.call("POST", "/farm/v1/jobs", asked).json["id"]
    failed = page.locator(row(page, job_id))
    expect(failed).to_contain_text("file_download_error")

    failed.get_by_role("button", name="Retry").click()

    expect(failed.get_by_role("button")).to_have_count(0)
    again = farm.job(job_id)["retried_as"]
    expect(page.locator(row(page, again))).to_contain_text("file_download_error")


@pytest.mark.full
def test_an_admin_drains_a_worker_and_another_caller_sees_its_own_jobs_only(page: Page, tmp_path: Path) -> None:
    with running_farm(tmp_path / "data", FARM_SIMULATED_STEP_MS="1", FARM_AUTH="keys") as farm:
        admin, caller = made_key(farm, "ann", "--admin"), made_key(farm, "bob")
        job_id = farm.call("POST", "/farm/v1/jobs", {"model": "srpo", "prompt": "ann's"}, Authorization=admin).json[
            "id"
        ]

        open_with_key(page, farm, caller)
        expect(page.locator("#jobs")).to_contain_text("No jobs.")
        expect(page.locator("#workers-section, #pause")).to_have_count(2)
        for part in ("#workers-section", "#pause"):
            expect(page.locator(part)).to_be_hidden()

        open_with_key(page, farm, admin)
        expect(page.locator(row(page, job_id))).to_contain_text("completed")
        worker = page.locator("#workers tbody tr").first
        name = worker.locator("td").first.text_content() or "?"
        worker.get_by_role("button", name="Drain").click()
        expect(page.locator("#workers tbody")).not_to_contain_text(name)


def made_key(farm: RunningFarm, *words: str) -> str:
    made = farm_command("keys", "create", *words, "--data-dir", str(farm.data_dir))
    key: str = re.findall(r"\S{20,}", made.stdout)[-1]
    return key


def open_with_key(page: Page, farm: RunningFarm, key: str) -> None:
    page.goto(f"{farm.url}/queue")
    page.evaluate("sessionStorage.clear()")
    page.reload()
    page.fill("#key", key)
    page.get_by_role("button", name="Use this key").click()


def test_a_worker_shows_its_jobs_step_by_step(page: Page, farm: RunningFarm) -> None:
    job_ids = [farm.submit(num_inference_steps=50, num_images=4) for _ in range(80)]

    shown = re.compile(r"[0-9a-f]{8} step [1-9]\d* of 200")
    expect(page.locator("#workers tbody")).to_contain_text(shown)
    for job_id in job_ids:
        farm.call("POST", f"/farm/v1/jobs/{job_id}/cancel")


def test_the_last_hour_and_running_bulks_are_there_when_the_page_opens(page: Page, farm: RunningFarm) -> None:
    for _ in range(3):
        farm.wait_for_end(farm.submit(num_inference_steps=1))
    client = openai.OpenAI(base_url=f"{farm.url}/v1", api_key="any")
    body = {"model": "srpo", "prompt": "a fox", "num_inference_steps": 50}
    lines = [{"custom_id": str(n), "method": "POST", "url": GENERATIONS, "body": body} for n in range(12)]
    file = client.files.create(file=("foxes.jsonl", "\n".join(map(json.dumps, lines)).encode()), purpose="batch")
    batch = client.batches.create(input_file_id=file.id, endpoint=GENERATIONS, completion_window="24h")
    page.reload()

    expect(page.locator("#last-hour p").last).to_contain_text(re.compile(r"([3-9]|\d\d+) completed"))
    bulk = page.locator("#bulks tbody tr", has=page.locator(f"code[title='{batch.id.removeprefix('batch_')}']"))
    expect(bulk).to_contain_text(re.compile(r"[1-9]\d* of 12 completed, 0 failed.* a minute"))
    bulk.get_by_role("button", name="Cancel").click()
    expect(page.locator("#bulks")).to_contain_text("No bulk is running.")


def test_the_last_hour_is_that_of_the_farm_where_the_browsers_clock_is_wrong(page: Page, farm: RunningFarm) -> None:
    page.add_init_script("const now = Date.now.bind(Date); Date.now = () => now() + 3 * 3_600_000;")
    farm.wait_for_end(farm.submit(num_inference_steps=1))
    page.reload()

    expect(page.locator("#last-hour p").last).to_contain_text(re.compile(r"[1-9]\d* completed"))


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    made = Receiver()
    made.start()
    yield made
    made.stop()


def test_a_delivery_is_repeated_by_hand(page: Page, farm: RunningFarm, receiver: Receiver) -> None:
    farm.submit(num_inference_steps=1, webhook_url=receiver.url, webhook_events=["job.completed"])
    delivery = page.locator("#deliveries tbody tr", has_text=receiver.url).first
    expect(delivery).to_contain_text("delivered")

    delivery.get_by_role("button", name="Redeliver").click()

    expect(delivery).to_contain_text("attempt 2")


def test_a_page_that_stays_open_does_not_grow(page: Page, farm: RunningFarm) -> None:
    def nodes() -> int:
        count: int = page.evaluate("() => document.querySelectorAll('*').length")
        return count

    def settle() -> None:
        for job_id in [farm.submit(num_inference_steps=1) for _ in range(60)]:
            farm.wait_for_end(job_id)
        last = farm.submit(num_inference_steps=1)
        expect(page.locator(row(page, last))).to_contain_text("completed")

    settle()
    before = nodes()
    settle()
    assert nodes() <= before * 1.05
