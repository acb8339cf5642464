"""URLs of stored files, and their contents, for the dialects, which do no I/O themselves."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from farm.domain.job import Image


@dataclass(frozen=True, slots=True)
class Links:
    """The API's base URL `base`, and the URL (`file`) and the bytes (`content`) of a stored image, by its key."""

    base: str
    file: Callable[[str], str]
    content: Callable[[str], bytes]

    def source(self, named: str) -> str:
        """Return the URL of an input image: the caller's own, or that of the farm's copy."""
        return named if "://" in named else self.file(named)

    def data(self, image: Image) -> str:
        """Return the image as a data URI. Raises StorageError, and NotFound if it has been deleted."""
        return f"data:{image.content_type};base64,{self.encoded(image.key)}"

    def encoded(self, key: str) -> str:
        """Return the bytes of a stored image in base64. Raises StorageError, and NotFound if it has been deleted."""
        return base64.b64encode(self.content(key)).decode()
