"""Processor cores: pins processes, so that two runs of the benchmark have the same conditions."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager

SERVER = 0
OTHERS = 1


@contextmanager
def children_on(number: int) -> Iterator[None]:
    """Run the processes that are started within the block on the `number`-th core, if there are enough cores."""
    if sys.platform != "linux" or len(cores := sorted(os.sched_getaffinity(0))) <= max(SERVER, OTHERS):
        yield
        return
    os.sched_setaffinity(0, {cores[number]})
    try:
        yield
    finally:
        os.sched_setaffinity(0, cores)
