"""`python -m workers`: a render worker."""

from __future__ import annotations

from workers.arguments import run
from workers.process import WorkerProcess

if __name__ == "__main__":
    run("farm worker", lambda farm, data_dir: WorkerProcess(farm, data_dir).run())
