"""`python -m workers`: a render worker."""

from __future__ import annotations

from functools import partial

from farm.bootstrap import Farm
from workers.command_line import Options, run
from workers.lease import StageTimeouts
from workers.process import WorkerProcess, device_of, load_pipeline


def _work(farm: Farm, options: Options) -> int:
    timeouts = StageTimeouts(load=farm.settings.load_seconds)
    device = options.device_name or device_of(farm.settings)
    load = partial(load_pipeline, farm.settings, options.data_dir)
    return WorkerProcess(farm, load, timeouts, worker=options.worker, device=device).run()


if __name__ == "__main__":
    run("farm worker", _work, service="worker")
