"""The file with a farm's own levels of acceleration (`FARM_STEP_MASKS`), which `farm weights calibrate` writes."""

from __future__ import annotations

from pathlib import Path

from pydantic import ValidationError

from farm.atomic_file import write_atomically
from farm.domain.acceleration import BUNDLED, Levels
from farm.domain.errors import ConfigurationError


def read_levels(path: Path | None) -> Levels:
    """Return the levels in the file; the bundled ones without a file. Raises ConfigurationError."""
    if path is None:
        return BUNDLED
    try:
        return Levels.model_validate_json(path.read_bytes())
    except OSError as error:
        raise ConfigurationError(f"FARM_STEP_MASKS={path} cannot be read: {error.strerror}.") from error
    except ValidationError as error:
        where = ".".join(map(str, error.errors()[0]["loc"])) or "the file"
        raise ConfigurationError(
            f"FARM_STEP_MASKS={path} is not a file of step masks: {where}: {error.errors()[0]['msg']}."
        ) from error


def write_levels(levels: Levels, path: Path) -> None:
    """Write the file atomically. Raises OSError."""
    write_atomically(path, (levels.model_dump_json(indent=2) + "\n").encode())
