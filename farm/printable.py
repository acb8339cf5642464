"""Printing of text from callers, receivers and servers, which must not control the terminal."""

from __future__ import annotations

import codecs
import io
import os
import sys
import unicodedata
from contextlib import suppress
from typing import TextIO, cast

#: Control and format characters (escape sequences, bidirectional overrides), line separators, lone surrogates.
_ESCAPED = frozenset({"Cc", "Cf", "Cs", "Zl", "Zp"})
#: How files in UTF-8, which cannot hold lone surrogates, have them: as escapes. JSON may bring some.
LONE_SURROGATES = "backslashreplace"
#: stdin, stdout and stderr.
_STANDARD_STREAMS = 3
#: Joiners are format characters, too, but parts of words and emoji.
_JOINERS = "\u200c\u200d"

#: What a terminal without these characters is shown instead.
_PLAIN = {"✓": "+", "✗": "x", "→": "->", "…": "...", "–": "-", "—": "-", "·": "."}


def open_streams() -> None:
    """Open /dev/null in place of standard streams that are closed: else the next files would take their numbers."""
    while (number := os.open(os.devnull, os.O_RDWR)) < _STANDARD_STREAMS:
        os.set_inheritable(number, True)
    os.close(number)
    sys.stdin = sys.stdin or _null("r")
    sys.stdout, sys.stderr = sys.stdout or _null("w"), sys.stderr or _null("w")


def _null(mode: str) -> TextIO:
    return cast(TextIO, os.fdopen(os.open(os.devnull, os.O_RDWR), mode))


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


def announce(text: str, *, file: TextIO | None = None) -> None:
    """Print one line of a service, which goes on if its output has no reader or no space."""
    with suppress(OSError):
        say(text, file=file)


def _shown(character: str) -> str:
    if unicodedata.category(character) not in _ESCAPED or character in _JOINERS:
        return character
    return character.encode("unicode_escape").decode()
