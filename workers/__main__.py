"""`python -m workers`: a render worker."""

from __future__ import annotations

from pathlib import Path

from farm.bootstrap import Farm
from workers.command_line import run
from workers.lease import StageTimeouts
from workers.process import WorkerProcess, load_pipeline


def _work(farm: Farm, _data_dir: Path) -> int:
    timeouts = StageTimeouts(load=farm.settings.load_seconds)
    return WorkerProcess(farm, lambda: load_pipeline(farm.settings), timeouts).run()


if __name__ == "__main__":
    run("farm worker", _work)
