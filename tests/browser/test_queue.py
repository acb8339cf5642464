"""The queue view: what it shows, and what an admin does there."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest
from playwright.sync_api import Page, expect

from tests.farms import RunningFarm
from tests.webhook_receiver import Receiver


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


def test_an_admin_pauses_the_farm_cancels_a_waiting_job_and_resumes(page: Page, farm: RunningFarm) -> None:
    page.get_by_role("button", name="Pause").click()
    expect(page.locator("#notice")).to_contain_text("Paused")
    job_id = farm.submit()

    page.locator(row(page, job_id)).get_by_role("button", name="Cancel").click()
    expect(page.locator(row(page, job_id))).to_contain_text("cancelled")
    page.get_by_role("button", name="Resume").click()

    expect(page.locator("#notice")).to_be_hidden()
    assert farm.wait_for_end(farm.submit(num_inference_steps=1))["status"] == "completed"


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
