"""The pictures that jobs begin from: read from storage before a batch is rendered. No torch here."""

from __future__ import annotations

import io
from collections.abc import Sequence

from PIL import Image

from farm.domain.errors import NotFound, RenderError
from farm.storage.storage import Storage

#: What the farm makes of all pictures that callers send.
_FORMATS = ("PNG",)


class Inputs:
    """The inputs of one batch. A picture that several of its jobs name is read once."""

    def __init__(self, storage: Storage) -> None:
        self._storage = storage
        #: By their keys in storage: RGB.
        self.pictures: dict[str, Image.Image] = {}

    def load(self, keys: Sequence[str]) -> None:
        """Read the pictures of one job.

        Raises RenderError where one is not there or is no picture, and StorageUnavailable where a later try may do
        better.
        """
        for key in keys:
            if key not in self.pictures:
                self.pictures[key] = _decoded(key, self._read(key))

    def _read(self, key: str) -> bytes:
        try:
            return self._storage.read(key)
        except NotFound as error:
            raise RenderError(f"The input '{key}' is not in storage any more.") from error


def _decoded(key: str, content: bytes) -> Image.Image:
    try:
        with Image.open(io.BytesIO(content), formats=_FORMATS) as picture:
            return picture.convert("RGB")
    except Exception as error:  # whatever Pillow makes of broken bytes: they are no picture
        raise RenderError(f"The input '{key}' is no picture that can be read: {error}") from error
