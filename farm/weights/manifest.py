"""The manifest beside a converted file of weights: what it was made from, and its digest."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Manifest:
    """Size, SHA-256 and number format of a converted file, size and SHA-256 of its source, and the farm's version."""

    bytes: int
    sha256: str
    number_format: str
    source: str
    source_bytes: int
    source_sha256: str
    version: str

    def write(self, file: Path) -> None:
        """Write the manifest beside `file`."""
        manifest_path(file).write_text(json.dumps(asdict(self), indent=2) + "\n", "utf-8")


def manifest_path(file: Path) -> Path:
    """Return where the manifest of a file is."""
    return file.with_name(f"{file.name}.manifest.json")


def manifest_of(file: Path) -> Manifest | None:
    """Return the manifest beside a file; None if there is none, or none that can be read."""
    try:
        return Manifest(**json.loads(manifest_path(file).read_text("utf-8")))
    except (OSError, ValueError, TypeError):
        return None
