"""Memory of a farm's processes over time: whether it grows with the lines of a bulk."""

from __future__ import annotations

import os
import statistics
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path

from tests.farms import pids

#: Parts of the command lines of a farm's processes, by what they are.
KINDS = {"API": "-m api ", "background worker": "-m workers.background ", "render workers": "-m workers "}
_PAGE = os.sysconf("SC_PAGE_SIZE")
_MEBIBYTE = 2**20


class MemorySamples:
    """Resident memory of the processes on one data folder, by what they are; of several the largest."""

    def __init__(self, data_dir: Path) -> None:
        self._data_dir = data_dir
        self._samples: defaultdict[str, list[float]] = defaultdict(list)

    def take(self) -> None:
        for kind, words in KINDS.items():
            sizes = [_resident(pid) for pid in pids(f"{words}") if self._is_ours(pid)]
            if any(sizes):
                self._samples[kind].append(max(sizes))

    def growth(self) -> Mapping[str, tuple[float, float]]:
        """Return the median MiB in the second quarter of the run, and in the last: what came first is warm-up."""
        return {kind: _quarters(samples) for kind, samples in self._samples.items() if len(samples) >= 4}

    def _is_ours(self, pid: int) -> bool:
        try:
            return f"--data-dir\0{self._data_dir}\0".encode() in Path(f"/proc/{pid}/cmdline").read_bytes()
        except OSError:
            return False


def _quarters(samples: list[float]) -> tuple[float, float]:
    quarter = len(samples) // 4
    return statistics.median(samples[quarter : 2 * quarter]), statistics.median(samples[-quarter:])


def _resident(pid: int) -> float:
    """Return the resident memory of a process in MiB; 0 if it has exited."""
    try:
        return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * _PAGE / _MEBIBYTE
    except OSError:
        return 0.0
