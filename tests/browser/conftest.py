"""A browser, and farms whose pages it opens."""

from __future__ import annotations

import functools
import shutil
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Playwright, expect, sync_playwright

from tests import docs_site
from tests.farms import RunningFarm, running_farm

#: The browser must reach nothing but the farm, and needs no sandbox for a page of ours.
_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]

#: A farm and a browser on a busy machine take longer than the five seconds for which Playwright's assertions wait.
_TIMEOUT_MS = 20_000
expect.set_options(timeout=_TIMEOUT_MS)


def launch(playwright: Playwright) -> Browser:
    """Start Debian's Chromium."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "Chromium is missing; run: sudo apt install chromium"
    return playwright.chromium.launch(executable_path=chromium, args=_OPTIONS)


@pytest.fixture(scope="module")  # while it runs, no test of this process can use asyncio
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        started = launch(playwright)
        yield started
        started.close()


@pytest.fixture(scope="session")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """Yield a farm whose images take half a second at the default steps."""
    environment = {"FARM_SIMULATED_STEP_MS": "15", "FARM_WEBHOOK_ALLOW": "127.0.0.1/32"}
    with running_farm(tmp_path_factory.mktemp("browser") / "data", **environment) as running:
        yield running


@pytest.fixture(scope="session")
def slow_farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """Yield a farm whose images take long enough to be seen as they form, and are not checked."""
    environment = {"FARM_SIMULATED_STEP_MS": "80", "FARM_SAFETY": "off"}
    with running_farm(tmp_path_factory.mktemp("slow") / "data", **environment) as running:
        yield running


@pytest.fixture(scope="session")
def farm_with_keys(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    folder: Path = tmp_path_factory.mktemp("keys") / "data"
    with running_farm(folder, FARM_SIMULATED_STEP_MS="1", FARM_AUTH="keys") as running:
        yield running


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="session")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of the documentation, built as a site."""
    handler = functools.partial(_Handler, directory=str(docs_site.build(tmp_path_factory.mktemp("docs"))))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """Yield the windows of one person: a history of their own."""
    windows = browser.new_context(viewport={"width": 1600, "height": 1000})
    windows.set_default_timeout(_TIMEOUT_MS)
    windows.grant_permissions(["clipboard-read", "clipboard-write"])
    yield windows
    windows.close()


@pytest.fixture
def page(context: BrowserContext) -> Iterator[Page]:
    """Yield a window; no script of its pages may fail."""
    errors: list[str] = []
    window = context.new_page()
    window.on("pageerror", lambda error: errors.append(str(error)))
    yield window
    assert not errors
