"""Dashboards drawn in a browser by Grafana's own panel components."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import Page, sync_playwright

from tests import javascript
from tests.prometheus import Prometheus

HOME = Path(__file__).parent
_PAGE = """<!doctype html><meta charset="utf-8"><link rel="stylesheet" href="draw.css">
<body style="margin: 16px; font-family: sans-serif; background: #f4f5f5">
<div id="root" style="position: relative"></div><script src="draw.js"></script></body>"""
#: Width of a dashboard, and the height of a row of its grid, in pixels: those of draw.jsx.
_WIDTH, _ROW = 1592, 38

#: A line: its name, its labels, its times in milliseconds, and its values as Prometheus writes them.
Line = Mapping[str, Any]


def build(folder: Path) -> None:
    """Write the page that draws into a folder."""
    javascript.install(HOME)
    options = ["--bundle", "--minify", f"--outfile={folder / 'draw.js'}", '--define:process.env.NODE_ENV="production"']
    loaders = [f"--loader:{ending}={loader}" for ending, loader in ((".svg", "dataurl"), (".ttf", "empty"))]
    esbuild = HOME / "node_modules" / "esbuild" / "bin" / "esbuild"
    subprocess.run(
        [javascript.NODE, esbuild, HOME / "draw.jsx", *options, *loaders],
        cwd=HOME, check=True, capture_output=True, timeout=120,
    )  # fmt: skip
    (folder / "index.html").write_text(_PAGE)


@contextmanager
def browser_page() -> Iterator[Page]:
    """Yield a window of a browser."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program, "Chromium is missing; run: sudo apt install chromium"
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--disable-gpu"])
        yield browser.new_page(viewport={"width": _WIDTH, "height": 1000})
        browser.close()


def lines(prometheus: Prometheus, targets: Sequence[Mapping[str, Any]]) -> list[Line]:
    """Return what a panel's targets were over the last two minutes, named by their legends; none without a number."""
    return [
        _line(target["legendFormat"], found)
        for target in targets
        for found in prometheus.query_range(target["expr"], seconds=120, step=2)
        if any(value != "NaN" for _, value in found["values"])
    ]


def _line(legend: str, found: Mapping[str, Any]) -> Line:
    name = re.sub(r"{{(\w+)}}", lambda label: str(found["metric"].get(label[1], "")), legend)
    values = [value.replace("Inf", "Infinity") for _, value in found["values"]]
    times = [1000 * at for at, _ in found["values"]]
    return {"name": name, "labels": dict(found["metric"]), "times": times, "values": values}


def draw(page: Page, site: Path, dashboard: Mapping[str, Any], series: Mapping[int, Sequence[Line]]) -> list[str]:
    """Draw a dashboard with the lines of each panel, by its id. Return the errors of the page's scripts."""
    errors: list[str] = []
    page.on("pageerror", lambda error: errors.append(str(error)))
    times = [time for lines in series.values() for line in lines for time in line["times"]]
    page.goto((site / "index.html").as_uri())
    page.evaluate(
        "(given) => window.draw(given)",
        {"dashboard": dashboard, "series": series, "from": min(times), "to": max(times)},
    )
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard["panels"])
    page.set_viewport_size({"width": _WIDTH, "height": rows * _ROW + 32})
    graphs = sum(panel["type"] == "timeseries" and bool(series[panel["id"]]) for panel in dashboard["panels"])
    page.wait_for_function("(least) => document.querySelectorAll('.uplot canvas').length >= least", arg=graphs)
    return errors
