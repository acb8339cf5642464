"""`python -m workers`: a render worker."""

from __future__ import annotations

from farm.bootstrap import Farm
from workers.command_line import Options, run
from workers.lease import StageTimeouts
from workers.process import WorkerProcess, device_of, load_pipeline


def _work(farm: Farm, options: Options) -> int:
    timeouts = StageTimeouts(load=farm.settings.load_seconds)
    device = options.device_name or device_of(farm.settings)
    process = WorkerProcess(farm, lambda: load_pipeline(farm.settings), timeouts, worker=options.worker, device=device)
    return process.run()


if __name__ == "__main__":
    run("farm worker", _work, service="worker")
