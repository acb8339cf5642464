"""Images in the terminal: by the protocol that it answers to know, else as coloured blocks."""

from __future__ import annotations

import base64
import os
import pty
import re
import subprocess
import sys
import termios
from pathlib import Path

import pytest
from PIL import Image

from tests.farms import clean_environment

#: Shows an image, with the patience that a busy machine needs: the library gives a terminal 0.1 s to answer.
_SHOW = """
import sys
from pathlib import Path
from textual_image import _terminal
from farm.cli.terminal import show_images

read = _terminal.read
_terminal.read = lambda file, length, _seconds: read(file, length, 20)
show_images([Path(sys.argv[1]).read_bytes()])
"""
#: What a program asks a terminal: its attributes, of which 4 is sixel; whether it knows kitty's protocol; the size of a
#: character.
_ATTRIBUTES, _KITTY, _CELL = b"\x1b[c", b"a=q", b"\x1b[16t"
_PLAIN = {_ATTRIBUTES: b"\x1b[?62;22c", _KITTY: b"\x1b_Gi=1;EINVAL\x1b\\", _CELL: b"\x1b[6;20;10t"}
_SIXEL = _PLAIN | {_ATTRIBUTES: b"\x1b[?62;4c"}
_KITTYS = _PLAIN | {_KITTY: b"\x1b_Gi=1;OK\x1b\\"}


def plain_environment() -> dict[str, str]:
    """Return the environment of a program in a terminal that does not name itself."""
    others = {name: value for name, value in clean_environment().items() if name not in ("LC_TERMINAL", "TERM_PROGRAM")}
    return others | {"TERM": "xterm-256color"}


def shown_in(
    answers: dict[bytes, bytes], file: Path, size: tuple[int, int] = (24, 80), variables: dict[str, str] | None = None
) -> bytes:
    """Return what is written to a terminal of so many rows and columns that answers to queries so."""
    terminal, other_end = pty.openpty()
    termios.tcsetwinsize(terminal, size)
    environment = plain_environment() | (variables or {})
    with subprocess.Popen(
        [sys.executable, "-c", _SHOW, str(file)], stdin=other_end, stdout=other_end, stderr=other_end, env=environment
    ) as program:
        os.close(other_end)
        written, waiting = b"", dict(answers)
        try:
            while part := os.read(terminal, 65_536):
                written += part
                for query in [query for query in waiting if query in written]:
                    os.write(terminal, waiting.pop(query))
        except OSError:  # a terminal ends so once its program has
            pass
    os.close(terminal)
    assert program.returncode == 0, written
    return written


@pytest.mark.parametrize(
    ("answers", "begins", "others"),
    [
        (_SIXEL, b"\x1bP", b"\xe2\x96\x80"),
        (_KITTYS, b"\x1b_G", b"\xe2\x96\x80"),
        (_PLAIN, b"\xe2\x96\x80", b"\x1bP"),  # half blocks
    ],
    ids=["sixel", "kitty", "neither"],
)
def test_an_image_is_shown_as_the_terminal_can(
    answers: dict[bytes, bytes], begins: bytes, others: bytes, tmp_path: Path
) -> None:
    Image.linear_gradient("L").convert("RGB").save(tmp_path / "image.png")

    written = shown_in(answers, tmp_path / "image.png")

    assert begins in written
    assert others not in written
    assert len(written) > 1000


@pytest.mark.parametrize("variable", [{"TERM_PROGRAM": "iTerm.app"}, {"LC_TERMINAL": "iTerm2"}], ids=["here", "by ssh"])
def test_iterm_is_sent_the_file_itself(variable: dict[str, str], tmp_path: Path) -> None:
    file = tmp_path / "image.png"
    Image.linear_gradient("L").convert("RGB").save(file)

    written = shown_in(_SIXEL, file, variables=variable)

    found = re.fullmatch(rb"\x1b\]1337;File=inline=1;width=60;size=(\d+):([\w+/=]+)\a\r\n", written)
    assert found
    assert (int(found[1]), base64.b64decode(found[2])) == (file.stat().st_size, file.read_bytes())


def test_a_terminal_without_a_size_gets_a_message(tmp_path: Path) -> None:
    Image.linear_gradient("L").save(tmp_path / "image.png")

    assert (
        shown_in({}, tmp_path / "image.png", size=(0, 0))
        == b"The terminal has no size, so no image is shown in it.\r\n"
    )
