"""Documents that the providers publish, with their source; never written from our own output."""

from __future__ import annotations

import json
from importlib import resources
from typing import Any


def load(name: str) -> dict[str, Any]:
    """Return the golden file of this name."""
    found: dict[str, Any] = json.loads((resources.files(__name__) / f"{name}.json").read_text())
    return found
