"""`python -m tests.claim_loops`: several render workers of the real code in one process, with the simulated pipeline.

Each is what a worker process has between Celery and the pipeline: claims, lease, renderer, publisher. A thread looks
for jobs in the place of Celery's wake-ups. SIGTERM ends it; it gives back what it holds.
"""

from __future__ import annotations

import argparse
import logging
import os
import random
import signal
import threading
from pathlib import Path

import structlog

from farm.bootstrap import Farm, build
from farm.settings import load
from tests.service.workers.worker import WorkerHarness
from workers.pipelines.simulated import SimulatedPipeline

#: A loop that found nothing looks again after up to so many seconds.
_MAX_PAUSE = 1.0


class ClaimLoops:
    """Workers of one process."""

    def __init__(self, farm: Farm, count: int, *, step_ms: float) -> None:
        self._stopping = threading.Event()
        self._workers = [
            WorkerHarness(
                farm,
                farm.store,
                pipeline=SimulatedPipeline(step_ms),
                name=f"loop-{os.getpid()}-{number}",
                lease_seconds=farm.settings.lease_seconds,
            )
            for number in range(count)
        ]

    def run(self) -> None:
        """Work until SIGTERM."""
        signal.signal(signal.SIGTERM, lambda *_: self._stopping.set())
        threads = [threading.Thread(target=self._loop, args=(worker,)) for worker in self._workers]
        for worker, thread in zip(self._workers, threads, strict=True):
            worker.open()
            thread.start()
        print("ready", flush=True)
        self._stopping.wait()
        for worker in self._workers:
            worker.draining.set()
        for worker, thread in zip(self._workers, threads, strict=True):
            thread.join()
            worker.close()

    def _loop(self, worker: WorkerHarness) -> None:
        while not self._stopping.wait(random.uniform(0, _MAX_PAUSE)):
            worker.work()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--loops", type=int, required=True)
    parser.add_argument("--step-ms", type=float, default=20.0)
    options = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    ClaimLoops(build(load(), options.data_dir), options.loops, step_ms=options.step_ms).run()


if __name__ == "__main__":
    main()
