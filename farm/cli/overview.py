"""Overviews of what `farm render --from` has rendered: an HTML page that opens from the disk, and contact sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import PurePath

from farm.cli.contact_sheet import Thumbnail, contact_sheet, pages_of
from farm.cli.image_page import PageImage, image_page
from farm.cli.manifest import Row
from farm.cli.output import Output

#: Images of one HTML page.
PAGE_IMAGES = 500


def images_text(count: int) -> str:
    """Return how many images there are, in words."""
    return f"{count} image{'' if count == 1 else 's'}"


def write_pages(output: Output, rows: Sequence[Row]) -> str:
    """Write `index.html` and, if there are many images, `index-2.html` and so on. Return the name of the first."""
    images = [_shown(row, file) for row in rows for file in row.files]
    title = images_text(len(images))
    starts = range(0, max(1, len(images)), PAGE_IMAGES)
    names = ["index.html", *(f"index-{number}.html" for number in range(2, len(starts) + 1))]
    for name, start in zip(names, starts, strict=True):
        output.write(name, image_page(title, images[start : start + PAGE_IMAGES], names))
    return names[0]


def write_contact_sheets(output: Output, rows: Sequence[Row], columns: int = 0) -> list[str]:
    """Write contact sheets of all images, and return their names."""
    files = [file for row in rows for file in row.files]
    pages = pages_of(len(files), columns)
    names = [f"contact-sheet{f'-{number}' if len(pages) > 1 else ''}.jpeg" for number in range(1, len(pages) + 1)]
    for name, page in zip(names, pages, strict=True):
        shown = [Thumbnail(PurePath(files[number]).stem, output.read(files[number]) or b"") for number in page]
        output.write(name, contact_sheet(shown, columns))
    return names


def _shown(row: Row, file: str) -> PageImage:
    seed = [] if row.seed is None else [f"seed {row.seed}"]
    return PageImage(PurePath(file), row.prompt, [row.id, *seed])
