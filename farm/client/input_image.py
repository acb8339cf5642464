"""Input images of a request: Pillow images, files, bytes or URLs."""

from __future__ import annotations

import base64
import io
from pathlib import Path

from PIL import Image

#: A Pillow image, the path of a file, the bytes of one, or a URL (`https://…`, `data:…`).
InputImage = Image.Image | Path | bytes | str

_MAGIC = {b"\xff\xd8": "image/jpeg", b"\x89PNG": "image/png", b"RIFF": "image/webp"}


def url_of(image: InputImage) -> str:
    """Return the URL of an image; for all but URLs a data URI. Raises OSError for a file that cannot be read."""
    if isinstance(image, str) and image.startswith(("http://", "https://", "data:")):
        return image
    content = _content(image)
    kind = next((kind for magic, kind in _MAGIC.items() if content.startswith(magic)), "application/octet-stream")
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _content(image: InputImage) -> bytes:
    if isinstance(image, bytes):
        return image
    if isinstance(image, Image.Image):
        png = io.BytesIO()
        image.save(png, "PNG")
        return png.getvalue()
    return Path(image).read_bytes()
