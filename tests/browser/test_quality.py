"""Accessibility, weight and independence of the pages, in each size and colour scheme."""

from __future__ import annotations

from typing import Any, Literal

import pytest
from playwright.sync_api import BrowserContext, Page, Request, expect

from farm.domain.catalogue import MODELS
from tests import javascript
from tests.farms import RunningFarm

#: Bytes that may be transferred until the page is there.
MAX_BYTES = 100_000
_PAGES = ("", "queue")
#: Whether anything on a page moves by itself when it changes, or is scrolled smoothly.
_MOVES = """() => [...document.querySelectorAll("*")].some((node) => {
  const { transitionDuration, animationName, scrollBehavior } = getComputedStyle(node);
  return !/^(0s(, )?)+$/.test(transitionDuration) || animationName !== "none" || scrollBehavior !== "auto";
})"""


def open_page(page: Page, farm: RunningFarm, path: str) -> None:
    page.goto(f"{farm.url}/{path}")
    shown = "#model option:not([disabled])" if not path else "#workers tbody tr"
    expect(page.locator(shown).first).to_be_attached()


def axe_violations(context: BrowserContext, page: Page) -> list[tuple[str, list[str]]]:
    """Return each rule that the page breaks as it is now, with the HTML of what breaks it."""
    # By the debugger's own way: the page's policy refuses scripts from elsewhere.
    debugger = context.new_cdp_session(page)
    debugger.send("Runtime.evaluate", {"expression": javascript.source("axe-core/axe.min.js")})
    found = debugger.send("Runtime.evaluate", {"expression": "axe.run()", "awaitPromise": True, "returnByValue": True})
    violations: list[dict[str, Any]] = found["result"]["value"]["violations"]
    return [(one["id"], [node["html"] for node in one["nodes"]]) for one in violations]


@pytest.mark.parametrize("path", _PAGES)
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_axe_finds_no_violation(
    context: BrowserContext, page: Page, farm: RunningFarm, path: str, scheme: Literal["light", "dark"], width: int
) -> None:
    farm.wait_for_end(farm.submit(num_inference_steps=1))
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, farm, path)
    if not path:
        page.fill("#field-prompt", "a fox")
        page.fill("#field-num_inference_steps", "1")
        page.click("#run")
        expect(page.locator("[data-status=completed]").first).to_be_visible()

    assert axe_violations(context, page) == []


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_axe_finds_no_violation_in_a_dialog(
    context: BrowserContext, page: Page, farm: RunningFarm, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    open_page(page, farm, "")
    page.fill("#field-prompt", "a fox")
    page.fill("#field-num_inference_steps", "1")
    page.fill("#field-num_images", "2")
    page.click("#run")
    expect(page.locator("[data-status=completed]").first).to_be_visible()
    for box in page.get_by_role("checkbox", name="Compare the image").all():
        box.check()

    found = {}
    for opener in ("code", "compare"):
        page.click(f"#{opener}")
        expect(page.locator(f"#{opener}-dialog")).to_be_visible()
        found[opener] = axe_violations(context, page)
        page.keyboard.press("Escape")
    assert found == {"code": [], "compare": []}


@pytest.mark.full
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_axe_finds_no_violation_where_a_key_is_asked_for(
    context: BrowserContext, page: Page, farm_with_keys: RunningFarm, scheme: Literal["light", "dark"], width: int
) -> None:
    page.emulate_media(color_scheme=scheme)
    page.set_viewport_size({"width": width, "height": 900})
    page.goto(farm_with_keys.url)
    page.fill("#key", "wrong")
    page.get_by_role("button", name="Use this key").click()
    expect(page.locator("#key-error")).to_contain_text("not valid")

    assert axe_violations(context, page) == []


@pytest.mark.parametrize("path", _PAGES)
def test_nothing_is_wider_than_a_small_screen(page: Page, farm: RunningFarm, path: str) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    open_page(page, farm, path)

    assert page.evaluate("() => document.documentElement.scrollWidth") <= 360


def test_no_model_has_a_form_that_is_wider_than_a_small_screen(page: Page, farm: RunningFarm) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    open_page(page, farm, "")
    names = page.locator("#model option").evaluate_all("(all) => all.map((one) => one.value)")

    assert len(names) == len(MODELS)
    for name in names:
        page.select_option("#model", name)
        page.locator("#fields summary").click()
        assert page.evaluate("() => document.documentElement.scrollWidth") <= 360, name


@pytest.mark.parametrize("path", _PAGES)
def test_a_page_is_light_and_asks_no_other_host(
    context: BrowserContext, page: Page, farm: RunningFarm, path: str
) -> None:
    requests: list[Request] = []
    page.on("requestfinished", lambda request: requests.append(request))
    open_page(page, farm, path)

    sizes = [request.sizes() for request in requests]
    assert sum(size["responseBodySize"] + size["responseHeadersSize"] for size in sizes) < MAX_BYTES
    assert {request.url.split("/")[2] for request in requests} == {f"127.0.0.1:{farm.port}"}


@pytest.mark.full
def test_nothing_moves_where_less_motion_is_wanted(page: Page, farm: RunningFarm) -> None:
    def moves(path: str, motion: Literal["reduce", "no-preference"]) -> bool:
        page.emulate_media(reduced_motion=motion)
        page.goto(f"{farm.url}/{path}")
        expect(page.locator("#jobs > li, #jobs tr, .opblock-tag").first).to_be_visible()
        return bool(page.evaluate(_MOVES))

    job = {"id": farm.submit(num_inference_steps=1), "body": {"model": "srpo", "prompt": "a fox"}}
    page.goto(farm.url)
    page.evaluate("(job) => localStorage.setItem('srpo-farm.history', JSON.stringify([job]))", job)

    # Of the farm's own, cards change with a transition; Swagger UI has motion of its own.
    assert [path for path in ("", "docs") if moves(path, "no-preference")] == ["", "docs"]
    assert [path for path in ("", "queue", "docs") if moves(path, "reduce")] == []


def test_the_form_is_used_with_the_keyboard_alone(page: Page, farm: RunningFarm) -> None:
    open_page(page, farm, "")
    page.keyboard.press("Tab")
    expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
    for _ in range(20):
        if page.evaluate("() => document.activeElement.id") == "field-prompt":
            break
        page.keyboard.press("Tab")
    page.keyboard.type("a fox by keyboard")
    page.keyboard.press("Control+Enter")

    expect(page.locator("#jobs > li:first-child")).to_contain_text("a fox by keyboard")
