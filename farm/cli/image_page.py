"""A page of images that opens from the disk: beside them, without scripts, and without any other host."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path, PurePath

import jinja2

from farm.atomic_file import write_atomically
from farm.printable import LONE_SURROGATES

_TEMPLATE = files("farm.cli") / "image_page.html"


@dataclass(frozen=True, slots=True)
class PageImage:
    """An image on the page: its file, below the page's folder or beside it, its prompt, and facts about it."""

    file: PurePath
    prompt: str
    facts: Sequence[str] = ()


def write_image_page(folder: Path, title: str, images: Iterable[PageImage]) -> Path:
    """Write `index.html` in `folder`, and return its path. Raises OSError."""
    shown = [replace(image, file=image.file.relative_to(folder)) for image in images]
    page = folder / "index.html"
    write_atomically(page, image_page(title, shown))
    return page


def image_page(title: str, images: Iterable[PageImage], pages: Sequence[str] = ()) -> bytes:
    """Return a page of images, whose files are named from its folder, with links to other pages."""
    # Prompts are text: nothing in them becomes markup.
    template = jinja2.Environment(autoescape=True).from_string(_TEMPLATE.read_text("utf-8"))
    shown = [
        {"src": image.file.as_posix(), "prompt": image.prompt, "facts": " · ".join(image.facts)} for image in images
    ]
    return template.render(title=title, images=shown, pages=pages).encode(errors=LONE_SURROGATES)
