"""Lighthouse's audits of a page, in Debian's Chromium."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

from tests import javascript

HOME = Path(__file__).parent

_PROGRAM = """
import { launch } from "chrome-launcher";
import lighthouse from "lighthouse";

const chrome = await launch({ chromeFlags: ["--headless=new", "--no-sandbox", "--disable-gpu"], logLevel: "silent" });
try {
  const onlyCategories = ["accessibility", "best-practices"];
  const { lhr } = await lighthouse(process.env.PAGE, { port: chrome.port, onlyCategories, logLevel: "error" });
  report({ error: lhr.runtimeError, audits: Object.values(lhr.audits) });
} finally {
  chrome.kill();
}
"""


def audits(url: str) -> list[dict[str, Any]]:
    """Return Lighthouse's audits of accessibility and best practices for a page on a small screen."""
    chromium = shutil.which("chromium") or shutil.which("chromium-browser")
    assert chromium, "Chromium is missing; run: sudo apt install chromium"
    report = javascript.run(_PROGRAM, home=HOME, seconds=240, PAGE=url, CHROME_PATH=chromium).report
    assert "error" not in report, report["error"]
    audits: list[dict[str, Any]] = report["audits"]
    return audits


def findings(audits: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the details of the audits that found something, by their titles."""
    return {audit["title"]: audit.get("details") for audit in audits if audit["score"] not in (None, 1)}
