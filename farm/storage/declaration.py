"""The content type and name that the sender of a file declares, made safe to repeat in the headers of an answer.

The storage key of the file carries both, so every storage keeps them with the file, and serving it needs no look-up.
"""

from __future__ import annotations

import base64
import re
import unicodedata
from dataclasses import dataclass

DEFAULT_TYPE = "application/octet-stream"
#: Longest content type that is kept, in characters.
_MAX_TYPE_LENGTH = 80
#: Bytes that fit in a key: names of files may have 255, and a temporary file is named by its key and a little more.
_MAX_BYTES = 138
#: Longest extension that a shortened name keeps, in bytes.
_MAX_SUFFIX_BYTES = 16

_LABEL = r"[a-z0-9][a-z0-9!#$&^_.+-]*"
_TYPE = re.compile(rf"({_LABEL}/{_LABEL})\s*(?:;.*)?", re.DOTALL)
_CHARSET = re.compile(r";\s*charset=\"?([a-z0-9][a-z0-9_.:-]*)")
#: Types that a browser runs or applies: HTML, XML (thus SVG), scripts, style sheets, and messages that contain them.
#: `attachment` keeps a browser from opening them, but not a page from loading a script or a style sheet.
_ACTIVE = re.compile(
    r"text/(html|xml|xsl|css|jscript|livescript)|application/(xml|x-shockwave-flash)|.*\+xml"
    r"|(text|application)/(x-)?(java|ecma)script[0-9.]*|(multipart|message)/.*"
)
_SEPARATORS = re.compile(r"[/\\]")


@dataclass(frozen=True, slots=True)
class Declaration:
    """A content type and a file name that are safe in headers; an empty name: none is known."""

    content_type: str = DEFAULT_TYPE
    name: str = ""

    def encoded(self) -> str:
        """Return both as part of a storage key; empty if there is nothing to tell."""
        if self == Declaration():
            return ""
        return base64.urlsafe_b64encode(f"{self.content_type}\n{self.name}".encode()).decode().rstrip("=")


def declared(content_type: str, name: str) -> Declaration:
    """Return what of a sender's content type and file name is safe to repeat."""
    kept = _passive_type(content_type.strip().lower())
    return Declaration(kept, _safe_name(name, max_bytes=_MAX_BYTES - len(f"{kept}\n")))


def decode(text: str) -> Declaration | None:
    """Return the declaration that part of a storage key encodes; None if it encodes none."""
    try:
        content_type, separator, name = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)).decode().partition("\n")
    except ValueError:
        return None
    return declared(content_type, name) if separator else None


def _passive_type(text: str) -> str:
    """Return the type and its charset, without other parameters; `DEFAULT_TYPE` if it is active or not a type."""
    match = _TYPE.fullmatch(text)
    if match is None or _ACTIVE.fullmatch(match[1]):
        return DEFAULT_TYPE
    charset = _CHARSET.search(text)
    kept = f"{match[1]}; charset={charset[1]}" if charset else match[1]
    return kept if len(kept) <= _MAX_TYPE_LENGTH else DEFAULT_TYPE


def _safe_name(text: str, *, max_bytes: int) -> str:
    """Return the last component of a path, without characters that control a terminal or a header."""
    visible = "".join(filter(_is_visible, _SEPARATORS.split(text)[-1])).strip(" .")
    stem, dot, suffix = visible.rpartition(".")
    if not stem or len(suffix.encode()) > _MAX_SUFFIX_BYTES:
        stem, dot, suffix = visible, "", ""
    ending = dot + suffix
    return stem.encode()[: max_bytes - len(ending.encode())].decode(errors="ignore").rstrip(" .") + ending


def _is_visible(character: str) -> bool:
    category = unicodedata.category(character)
    return category[0] != "C" and category not in ("Zl", "Zp")
