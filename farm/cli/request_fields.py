"""The fields of a request that `farm render` makes from its options: model, input images, size."""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from farm.client.http import HttpClient
from farm.domain.catalogue import MAX_INPUT_BYTES, find, for_images
from farm.domain.errors import FarmError

#: Most bytes that the image files of one request may have together. As data URIs they still fit into a body.
MAX_FILE_BYTES = MAX_INPUT_BYTES
_URL = re.compile(r"(https?://|data:)", re.IGNORECASE)


class UnusableFile(FarmError):
    """A file given with --image cannot be sent."""


class ModelNames:
    """The names of models by the ids that this farm lists. It is asked once, and only for ids of its own: aliases."""

    def __init__(self, client: HttpClient) -> None:
        self._client = client

    def model_for(self, model_id: str, images: int) -> str:
        """Return the model that `--model ID` means with this number of input images; an unknown id as it is.

        It is the farm's own name, which all its routes take: another id would have the terms of its dialect. Raises
        CallFailed.
        """
        name = model_id if find(model_id) else self._aliases.get(model_id, model_id)
        model = for_images(name, images) or find(name)
        return model.name if model else name

    @cached_property
    def _aliases(self) -> dict[str, str]:
        models = self._client.get("/models")["models"]
        return {model_id: model["name"] for model in models for model_id in model["ids"]}


def takes_several(model_id: str) -> bool:
    """Return True if the model takes a list of input images."""
    model = find(model_id)
    return model is not None and model.max_inputs > 1


def image_fields(urls: list[str], *, several: bool) -> dict[str, Any]:
    """Return the request's fields for the input images; `several`: the model takes a list, even of one."""
    if several or len(urls) > 1:
        return {"image_urls": urls}
    return {"image_url": urls[0]} if urls else {}


def image_urls(names: Sequence[str], *, source: str = "--image", max_bytes: int = MAX_FILE_BYTES) -> list[str]:
    """Return URLs as they are and files as data URIs. Raises UnusableFile, which says that `source` names them."""
    files = {name: _content(Path(name), source, max_bytes) for name in names if not _URL.match(name)}
    total = sum(len(files.get(name, b"")) for name in names)
    if total > max_bytes:
        raise UnusableFile(
            f"{source}: the files are too large; allowed: {max_bytes} bytes together. Give URLs instead."
        )
    return [_data_uri(name, files[name]) if name in files else name for name in names]


def _content(file: Path, source: str, max_bytes: int) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(max_bytes + 1)
    except OSError as error:
        raise UnusableFile(f"{source}: cannot read {file}: {error.strerror}.") from error
    except ValueError as error:
        raise UnusableFile(f"{source}: no file has the name {str(file)!r}: {error}.") from error


def _data_uri(name: str, content: bytes) -> str:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_size(text: str) -> str | dict[str, int]:
    """Return `1024x768` as width and height, and anything else as a preset's name, which the farm checks."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    return {"width": int(match[1]), "height": int(match[2])} if match else text
