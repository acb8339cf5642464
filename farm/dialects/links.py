"""How what the farm keeps is reached from outside. Built by a process, used by the dialects, which do no I/O."""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass

from farm.domain.job import Image


@dataclass(frozen=True, slots=True)
class Links:
    """`base` begins every URL of the API; `file` is the URL of a stored image, by its key; `content` its bytes."""

    base: str
    file: Callable[[str], str]
    content: Callable[[str], bytes]

    def source(self, named: str) -> str:
        """The URL of an image that a request brings: as the caller named it, or where the farm's own copy is."""
        return named if "://" in named else self.file(named)

    def data(self, image: Image) -> str:
        """The image itself as a data URI. Raises StorageError, and NotFound where it is gone."""
        return f"data:{image.content_type};base64,{base64.b64encode(self.content(image.key)).decode()}"
