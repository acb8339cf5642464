"""The documentation as a site: it builds, is complete, needs no other host, and is found by the field's words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from farm.cli import commands_page
from farm.dialects import failure_codes_page
from tests import docs_index, docs_site
from tests.docs_snippets import DOCS


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of the built site."""
    return docs_site.build(tmp_path_factory.mktemp("site"))


def test_every_page_is_in_the_navigation() -> None:
    listed = {name for _, name in docs_index.pages(docs_index.navigation()["nav"])}

    assert listed == {page.name for page in DOCS.glob("*.md")}


def test_no_page_of_the_site_needs_another_host(site: Path) -> None:
    built = list(site.glob("*.html"))
    loaded = re.compile(r"<(?:script|img|link)\b[^>]*?(?:src|href)=\"?(https?://[^\s\">]+)")
    needed = {url for page in built for url in loaded.findall(page.read_text())}

    assert len(built) > 20
    assert needed == set()


@pytest.mark.parametrize(
    "words",
    ["FARM_S3_PUBLIC_ENDPOINT", "guidance_scale", "lease", "Idempotency-Key", "X-Fal-Queue-Priority", "asyncio"],
)
def test_the_search_finds_the_words_of_the_field(site: Path, words: str) -> None:
    assert words in json.dumps(json.loads((site / "search.json").read_text()))


def test_the_generated_pages_are_up_to_date() -> None:
    assert (DOCS / "cli.md").read_text() == commands_page.page(), "run `make docs`"
    assert (DOCS / "failure-codes.md").read_text() == failure_codes_page.page(), "run `make docs`"
    assert (DOCS / "llms.txt").read_text() == docs_index.index(), "run `make docs`"
