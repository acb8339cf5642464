"""The documentation as a site, read by a person: its search, its links, and small screens."""

from __future__ import annotations

import re
from urllib.parse import urldefrag

import pytest
from playwright.sync_api import Page, expect

from tests.docs_snippets import DOCS

pytestmark = pytest.mark.full

#: What a person types into the search, and the page that answers it.
SEARCHED = {
    "webhook signature": "webhooks",
    "batch": "high-volume",
    "presigned": "production",
    "LoRA": "lora",
    "quantize": "cards",
    "seed": "prompting",
    "rate limit": "settings",
    "autoscaling": "production",
    "out of memory": "cards",
    "migration from fal": "coming-from-fal",
}


@pytest.mark.parametrize("words", SEARCHED)
def test_the_search_answers_first_with_the_right_page(page: Page, site: str, words: str) -> None:
    page.goto(f"{site}/index.html")
    page.get_by_role("button", name="Search").first.click()
    page.get_by_role("textbox").or_(page.get_by_role("combobox")).last.fill(words)

    expect(page.locator("a[href*='?h=']").first).to_have_attribute("href", re.compile(rf"{SEARCHED[words]}\.html"))


def test_every_link_of_the_site_leads_somewhere(page: Page, site: str) -> None:
    """Follow the links from the first page on, to every page and to every heading that one names."""
    waiting, headings, named = ["index.html"], {}, set()
    while waiting:
        path = waiting.pop()
        if path in headings:
            continue
        answer = page.request.get(f"{site}/{path}")
        assert answer.ok, path
        text = answer.text() if path.endswith(".html") else ""
        headings[path] = set(re.findall(r'\bid="?([^\s">]+)', text))
        links = re.findall(r'<a\b[^>]*?\bhref="?([^\s">]+)', text)
        own = [link for link in links if not re.match(r"\w+:", link)]
        for link in own:
            target, heading = urldefrag(link)
            target = path if target in ("", ".") else target.removeprefix("./")
            named.add((target, heading))
            waiting.append(target)

    assert len(headings) > 30
    assert {one for one in named if one[1] and one[1] not in headings[one[0]]} == set()


@pytest.mark.timeout(300)
def test_no_page_is_wider_than_a_small_screen(page: Page, site: str) -> None:
    page.set_viewport_size({"width": 360, "height": 800})
    widths = {}
    for markdown in DOCS.glob("*.md"):
        page.goto(f"{site}/{markdown.stem}.html")
        widths[markdown.stem] = page.evaluate("() => document.documentElement.scrollWidth")

    assert len(widths) > 20
    assert {name: width for name, width in widths.items() if width > 360} == {}
