"""The page of images: complete, and without markup from a prompt."""

from __future__ import annotations

import html
import re
from pathlib import Path

from farm.cli.image_page import PageImage, write_image_page


def test_each_image_is_there_with_its_prompt_as_text(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    names = ["a fox.jpeg", "sub/ä#?.png"]
    for name in names:
        (tmp_path / name).write_bytes(b"")
    prompts = ["<script>alert(1)</script>", 'a "fox" & more']

    page = write_image_page(
        tmp_path, "<b>", [PageImage(tmp_path / name, prompt) for name, prompt in zip(names, prompts, strict=True)]
    ).read_text()

    assert "<script>" not in page
    assert "<b>" not in page
    assert [html.unescape(text) for text in re.findall(r'alt="([^"]*)"', page)] == prompts
    assert re.findall(r'img src="([^"]*)"', page) == ["a%20fox.jpeg", "sub/%C3%A4%23%3F.png"]
