"""`python -m tests.bench.slow_inputs up`: a whole farm whose render workers take 50 ms to read an input image.

Started with other arguments, it is such a worker.
"""

from __future__ import annotations

import runpy
import sys
import time
from pathlib import Path
from unittest.mock import patch

from farm.cli import up
from farm.cli.main import main
from farm.storage.local import LocalStorage

READ_SECONDS = 0.05

_read = LocalStorage.read


def read_slowly(self: LocalStorage, key: str) -> bytes:
    time.sleep(READ_SECONDS)  # the network between a worker and its storage
    return _read(self, key)


def worker_program(data_dir: Path) -> list[str]:
    return [sys.executable, "-m", "tests.bench.slow_inputs", "--data-dir", str(data_dir)]


if __name__ == "__main__":
    if sys.argv[1] == "up":
        up.worker_program = worker_program
        main()
    else:
        patch.object(LocalStorage, "read", read_slowly).start()
        runpy.run_module("workers", run_name="__main__", alter_sys=True)
