"""`python -m tests.faulty_farm up`: a whole farm whose workers are `tests.faulty_worker` and
`tests.faulty_background`, restarted at once.
"""

from __future__ import annotations

import sys
from pathlib import Path

from farm.cli import up
from farm.cli.main import main
from farm.process import supervisor


def worker_program(data_dir: Path) -> list[str]:
    return [sys.executable, "-m", "tests.faulty_worker", "--data-dir", str(data_dir)]


def background_program(data_dir: Path) -> list[str]:
    return [sys.executable, "-m", "tests.faulty_background", "--data-dir", str(data_dir)]


if __name__ == "__main__":
    up.worker_program = worker_program
    up.webhook_program = background_program
    supervisor._FIRST_DELAY = 0.1
    supervisor._LONGEST_DELAY = 0.1
    main()
