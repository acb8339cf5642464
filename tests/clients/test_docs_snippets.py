"""What the pages for those who come from a provider tell them to write works, run by the providers' own clients."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
from PIL import Image

from tests import javascript
from tests.docs_snippets import DOCS
from tests.farms import RunningFarm, clean_environment, picture_facts, running_farm

#: The farm of the pages.
FARM = "http://127.0.0.1:8000"


class Snippet(NamedTuple):
    """A block of code on a page."""

    page: str
    language: str
    number: int
    code: str


def snippets(language: str) -> list[Snippet]:
    pages = sorted(DOCS.glob("coming-from-*.md"))
    blocks = [(path.name, re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)) for path in pages]
    return [Snippet(name, language, number, code) for name, found in blocks for number, code in enumerate(found, 1)]


def name_of(snippet: Snippet) -> str:
    return f"{snippet.page}-{snippet.number}"


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("pages") / "data", FARM_SIMULATED_STEP_MS="1") as farm:
        yield farm


def test_every_page_has_both_languages() -> None:
    pages = {path.name for path in DOCS.glob("coming-from-*.md")}

    assert len(pages) == 5
    assert {snippet.page for snippet in snippets("python")} == {snippet.page for snippet in snippets("js")} == pages


@pytest.mark.parametrize("snippet", snippets("python"), ids=name_of)
def test_the_python_of_a_page_brings_a_picture(farm: RunningFarm, tmp_path: Path, snippet: Snippet) -> None:
    Image.new("RGB", (256, 256), "orange").save(tmp_path / "fox.png")
    done = subprocess.run(
        [sys.executable, "-c", snippet.code.replace(FARM, farm.url)],
        cwd=tmp_path,
        env=clean_environment() | {"FAL_KEY": "any"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    assert_is_a_picture(farm, done.stdout)


@pytest.mark.parametrize("snippet", snippets("js"), ids=name_of)
def test_the_javascript_of_a_page_brings_a_picture(farm: RunningFarm, snippet: Snippet) -> None:
    assert_is_a_picture(farm, javascript.run(snippet.code.replace(FARM, farm.url)).output)


@pytest.mark.parametrize(
    "path",
    [
        "/fal/run/fal-ai/flux/srpo/stream",
        "/fal/run/fal-ai/flux/srpo/realtime",
        "/fal/rest/tokens/",
        "/fal/queue/workflows/owner/flow",
        "/fal/queue/comfy/owner/flow",
        "/fal/queue/fal-ai/flux-pro/v1.1-ultra",
        "/api/v3/balance",
        "/api/v3/wavespeed-ai/flux-dev",
    ],
)
def test_what_the_pages_say_is_not_offered_is_not_there(farm: RunningFarm, path: str) -> None:
    assert farm.call("POST", path, {"prompt": "a fox"}).status == 404


def assert_is_a_picture(farm: RunningFarm, output: str) -> None:
    """A line names a picture of the farm's, or the type of one that the client has fetched itself."""
    (told,) = [line for line in output.splitlines() if line.startswith(("image/", f"{farm.url}/files/"))]
    if not told.startswith("image/"):
        _, kind = picture_facts(farm.call("GET", told.removeprefix(farm.url)).body)
        assert kind in ("JPEG", "PNG")
