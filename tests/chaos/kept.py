"""Keep what explains a failed run, where no later run removes it, and print the part that is worth reading first."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Sequence
from pathlib import Path
from pprint import pformat

from tests.chaos.judge import Finding
from tests.chaos.records import Observations

#: Where failed runs are kept.
KEPT = Path(__file__).parents[2] / "out" / "chaos"
#: Warnings and errors of the farm's log that are printed, the last ones.
_SHOWN_LINES = 60


def keep(observations: Observations, found: Sequence[Finding], *, log: Path, seed: int, into: Path = KEPT) -> Path:
    """Copy the farm's log, the findings and the observations to a new folder, and return it."""
    folder = into / f"{time.strftime('%Y%m%d-%H%M%S')}-seed-{seed}"
    folder.mkdir(parents=True)
    shutil.copy(log, folder / "farm.log")
    (folder / "findings.txt").write_text("".join(f"{finding}\n" for finding in found))
    (folder / "sweep.log").write_text(observations.sweep_log)
    (folder / "observations.txt").write_text(pformat(observations, width=160))
    return folder


def explain(folder: Path) -> None:
    """Print what the last sweep said, and the last warnings and errors of the farm's log."""
    print(f"the last sweep said:\n{(folder / 'sweep.log').read_text()}")
    lines = (folder / "farm.log").read_text(errors="replace").splitlines()
    print(f"the last warnings and errors of {len(lines)} lines:")
    print("\n".join([line for line in lines if _is_warning(line)][-_SHOWN_LINES:]))
    print(f"farm's log, findings and observations are kept in {folder}")


def _is_warning(line: str) -> bool:
    """Return True for a warning or an error, and for a line that is no entry of the log."""
    try:
        return json.loads(line).get("level") not in ("info", "debug")
    except (ValueError, AttributeError):
        return True
