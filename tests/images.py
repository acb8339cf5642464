"""Images that tests send."""

from __future__ import annotations

import base64
import io

from PIL import Image


def sample_image(width: int = 64, height: int = 64, *, colour: str = "red", form: str = "PNG") -> bytes:
    """Return a plain image as a file."""
    content = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(content, form)
    return content.getvalue()


def data_uri(content: bytes, content_type: str = "image/png") -> str:
    """Return `content` as a data URI."""
    return f"data:{content_type};base64,{base64.b64encode(content).decode()}"
