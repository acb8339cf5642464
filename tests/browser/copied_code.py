"""The code that the playground offers for a request, run as it would be pasted."""

from __future__ import annotations

import subprocess
import sys

from playwright.sync_api import Page, expect

from tests import javascript
from tests.farms import clean_environment


def offered_code(page: Page) -> dict[str, str]:
    """Return the code for each client that the playground offers for the request in its form."""
    page.click("#code")
    client = page.get_by_label("Client")
    expect(client).to_be_visible()
    names: list[str] = client.locator("option").evaluate_all("(all) => all.map((one) => one.value)")
    codes = {name: _shown(page, name) for name in names}
    page.get_by_role("button", name="Close").click()
    return codes


def _shown(page: Page, name: str) -> str:
    page.get_by_label("Client").select_option(name)
    return page.locator("#code-text").text_content() or ""


def run_code(name: str, code: str, *, key: str = "any") -> str:
    """Run the code for a client, with a key in its environment, and return what it prints."""
    language = name.partition(":")[0]
    if language == "JavaScript":
        return javascript.run(code, FARM_API_KEY=key).output
    program = ["bash", "-s"] if language == "Shell" else [sys.executable, "-"]
    done = subprocess.run(
        program,
        input=code,
        env=clean_environment() | {"FARM_API_KEY": key},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, f"{name}: {done.stderr}"
    return done.stdout
