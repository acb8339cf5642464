"""Printing of text from callers, receivers and servers, which must not control the terminal."""

from __future__ import annotations

import codecs
import io
import sys
import unicodedata
from typing import TextIO

#: Control and format characters (escape sequences, bidirectional overrides), line separators, lone surrogates.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: Joiners are format characters, too, but parts of words and emoji.
_JOINERS = "\u200c\u200d"

#: What a terminal without these characters is shown instead.
_PLAIN = {"✓": "+", "✗": "x", "→": "->", "…": "...", "–": "-", "—": "-", "·": "."}


def degrade_output() -> None:
    """Have this process's output replace characters that the terminal's encoding lacks, instead of raising."""
    codecs.register_error("plain", _plain)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="plain")


def _plain(error: UnicodeError) -> tuple[str, int]:
    assert isinstance(error, UnicodeEncodeError)
    lacking = error.object[error.start : error.end]
    return "".join(_PLAIN.get(character, "?") for character in lacking), error.end


def printable(text: str) -> str:
    r"""Return `text` with every character that could control a terminal written as its escape, such as `\x1b`."""
    return text if text.isascii() and text.isprintable() else "".join(map(_shown, text))


def say(text: str, *, file: TextIO | None = None) -> None:
    """Print one line, with control characters as escapes."""
    print(printable(text), file=file or sys.stdout, flush=True)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()
