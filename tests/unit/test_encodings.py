"""Files are UTF-8 whatever the locale: the farm's own, and those with people's prompts."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
#: Variables of a locale whose encoding is ASCII, which Python would replace by UTF-8 without the other two.
ASCII_LOCALE = {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
#: How many arguments come before the encoding.
BEFORE = {"read_text": 0, "write_text": 1}

#: Reads the scripts of the job store, and writes a page of images.
PROGRAM = """
import sys
from pathlib import Path
from farm.cli.image_page import image_page, write_image_page
from farm.jobstore.scripts import script_text
folder = Path(sys.argv[1])
script_text("claim")
write_image_page(folder, "Fl\\u00fcge", [])
"""


def texts_without_encoding(tree: ast.AST) -> Iterator[int]:
    """Yield the lines that read or write a text in the encoding of the locale."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="read_text" | "write_text" as name), args=args, keywords=words):
                if len(args) <= BEFORE[name] and "encoding" not in {word.arg for word in words}:
                    yield node.lineno


@pytest.mark.parametrize("package", ["api", "farm", "miniature", "workers"])
def test_no_text_is_in_the_encoding_of_the_locale(package: str) -> None:
    found = [
        f"{path}:{line}"
        for path in (ROOT / package).rglob("*.py")
        for line in texts_without_encoding(ast.parse(path.read_text("utf-8")))
    ]

    assert found == []


def test_the_farms_files_are_read_and_written_in_an_ascii_locale(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(tmp_path)], env=os.environ | ASCII_LOCALE, capture_output=True, text=True
    )

    assert done.returncode == 0, done.stderr
    assert "Flüge" in (tmp_path / "index.html").read_text("utf-8")
