"""Input images of jobs, read from storage before they are rendered. No torch here."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from farm.domain.errors import NotFound, RenderError
from farm.storage.storage import Storage

#: The format in which the farm stores all inputs.
_FORMATS = ("PNG",)


class Inputs:
    """The inputs of one claim. An image that several of its jobs name is read once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        #: By their storage keys: RGB.
        self.images: dict[str, Image.Image] = {}

    def load(self, storage_keys: Sequence[str]) -> None:
        """Read the images of one job.

        Raises RenderError where one is missing or is not an image, and StorageUnavailable where a later try may do
        better.
        """
        for key in storage_keys:
            if key not in self.images:
                self.images[key] = _decoded(key, self._read(key))

    def _read(self, key: str) -> bytes:
        try:
            return self._storage.read(key)
        except NotFound as error:
            raise RenderError(f"The input image '{key}' is no longer in storage.") from error


def _decoded(key: str, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as image:
            return image.convert("RGB")
    except Exception as error:  # whatever Pillow raises for broken bytes
        raise RenderError(f"The input image '{key}' cannot be read.", detail=str(error)) from error
