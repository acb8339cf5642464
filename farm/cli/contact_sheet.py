"""Contact sheets: small copies of many images on a page, each with its name."""

from __future__ import annotations

import io
import math
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont, ImageOps

from farm.domain.errors import FarmError

#: The longest side of a small copy, its distance to the next, and the height of its name, in pixels.
CELL, GAP, LABEL = 240, 12, 20
MAX_COLUMNS = 10
#: Images of one page. A page is not much larger than a screen.
MAX_IMAGES = 60
_PAPER, _INK = "white", "#333333"


class UnreadableImage(FarmError):
    """A file that is not an image."""


@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image of a contact sheet: its name, and its file's content."""

    name: str
    content: bytes


def pages_of(count: int, columns: int = 0) -> list[range]:
    """Return which images are on which page. With `columns`, no row is divided between pages."""
    per_page = MAX_IMAGES // columns * columns if 0 < columns <= MAX_COLUMNS else MAX_IMAGES
    return [range(start, min(start + per_page, count)) for start in range(0, count, per_page)]


def contact_sheet(images: Sequence[Thumbnail], columns: int = 0) -> bytes:
    """Return a page with these images as a JPEG file; without `columns`, it is about as wide as it is high."""
    across = columns if 0 < columns <= MAX_COLUMNS else min(MAX_COLUMNS, math.ceil(math.sqrt(len(images))))
    small = [_small(thumbnail) for thumbnail in images]
    height = max(image.height for image in small)
    down = math.ceil(len(images) / across)
    page = Image.new("RGB", (GAP + across * (CELL + GAP), GAP + down * (height + LABEL + GAP)), _PAPER)
    draw, font = ImageDraw.Draw(page), ImageFont.load_default(13)
    for number, (thumbnail, image) in enumerate(zip(images, small, strict=True)):
        left = GAP + number % across * (CELL + GAP)
        bottom = GAP + number // across * (height + LABEL + GAP) + height
        page.paste(image, (left + (CELL - image.width) // 2, bottom - image.height))
        draw.text((left, bottom + 2), _fitting(thumbnail.name, draw, font), fill=_INK, font=font)
    file = io.BytesIO()
    page.save(file, "JPEG", quality=88)
    return file.getvalue()


def _small(thumbnail: Thumbnail) -> Image.Image:
    """Return a small copy of an image. Raises UnreadableImage."""
    try:
        with Image.open(io.BytesIO(thumbnail.content)) as image:
            image.draft("RGB", (CELL, CELL))
            return ImageOps.contain(image.convert("RGB"), (CELL, CELL))
    except OSError as error:
        raise UnreadableImage(f"{thumbnail.name} is not a readable image; delete it and run again.") from error


def _fitting(name: str, draw: ImageDraw.ImageDraw, font: ImageFont.FreeTypeFont | ImageFont.ImageFont) -> str:
    """Return a name, cut to the width of a cell."""
    text = name
    while draw.textlength(text, font=font) > CELL and len(text) > 1:
        text = f"{text.removesuffix('…')[:-1]}…"
    return text
