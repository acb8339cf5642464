"""Headers of safetensors files: which tensors are there, and where they end. Reads no tensor."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

#: What reading the header of another file raises.
HEADER_ERRORS = (OSError, ValueError, KeyError, TypeError, AttributeError)
#: Ending and first bytes of a file whose tensors are quantised in its own formats.
GGUF = ".gguf"
_GGUF_MAGIC = b"GGUF"
#: Longest header, in bytes.
_MAX_HEADER = 10**8


@dataclass(frozen=True, slots=True)
class TensorEntry:
    """A tensor's number format, as safetensors names it, its shape, and its first byte and the one after its last."""

    number_format: str
    shape: tuple[int, ...]
    begin: int
    end: int

    @property
    def values(self) -> int:
        """Number of its values."""
        return prod(self.shape)


def read_header(path: Path) -> tuple[Mapping[str, TensorEntry], Mapping[str, str]]:
    """Return the tensors of a file, at offsets in the whole file, and its metadata.

    Raises one of HEADER_ERRORS if it is not a safetensors file.
    """
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if not 2 <= length <= min(_MAX_HEADER, os.fstat(file.fileno()).st_size):
            raise ValueError("no header")
        described = json.loads(file.read(length))
    metadata = described.pop("__metadata__", {})
    return {name: _entry(tensor, 8 + length) for name, tensor in described.items()}, metadata


def _entry(tensor: Mapping[str, Any], data: int) -> TensorEntry:
    first, last = tensor["data_offsets"]
    return TensorEntry(str(tensor["dtype"]), tuple(tensor["shape"]), data + first, data + last)


def end_of(tensors: Mapping[str, TensorEntry]) -> int:
    """Return the size that a file with these tensors must have."""
    return max(tensor.end for tensor in tensors.values())


def is_gguf(path: Path) -> bool:
    """Return True if a file begins as a GGUF file does."""
    with path.open("rb") as file:
        return file.read(len(_GGUF_MAGIC)) == _GGUF_MAGIC
