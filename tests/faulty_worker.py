"""`python -m tests.faulty_worker`: the real render worker on a simulated pipeline that fails on command.

A prompt is the command: `FAULT while STAGE`, or `FAULT once while STAGE` for the first time only; faults and stages are
below. A file in the folder `faults` of the farm's data does the same to the one worker that finds it when it starts:
`hang while loading`, or `fail while working`, with which nothing can be rendered.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import re
import signal
import threading
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

from farm.bootstrap import Farm
from farm.domain.job import Claimed, Result
from farm.domain.request import ImageRequest
from farm.jobstore.store import JobStore, Terms
from farm.storage.local import LocalStorage
from workers import wakeup_watchdog
from workers.command_line import Options, run
from workers.lease import StageTimeouts
from workers.pipelines.pipeline import NO_INPUTS, InputImages, RenderedImage
from workers.pipelines.simulated import SimulatedImage, SimulatedPipeline
from workers.process import WorkerProcess

#: Seconds without progress after which this worker counts as hung, at any stage.
TIMEOUT_SECONDS = 4.0
TIMEOUTS = StageTimeouts(load=TIMEOUT_SECONDS, read=TIMEOUT_SECONDS, step=TIMEOUT_SECONDS, publish=TIMEOUT_SECONDS)

_COMMAND = re.compile(r"(\w+)( once)? while (\w+)")


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def _hang() -> None:
    threading.Event().wait()


def _freeze() -> None:
    """Hang like an engine that never lets another Python thread run."""
    ctypes.PyDLL(None).sleep(3600)


def _raise() -> None:
    raise ValueError("the engine stumbles")


def _lose() -> None:
    raise RuntimeError("CUDA error: device-side assert triggered")


FAULTS: dict[str, Callable[[], None]] = {"die": _die, "hang": _hang, "freeze": _freeze, "raise": _raise, "lose": _lose}


class Faults:
    """The planned faults, and those that have happened already: `folder` outlives the worker."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        folder.mkdir(exist_ok=True)

    def meet(self, command: str, stage: str) -> None:
        """Do what the command says, if it is for this stage."""
        match = _COMMAND.search(command)
        if match and match[3] == stage and not (match[2] and self._has_happened(command)):
            FAULTS[match[1]]()

    def is_chosen(self, command: str) -> bool:
        """Return True if the command exists, and this worker is the first to find it."""
        try:
            (self._folder / command).unlink()
        except FileNotFoundError:
            return False
        return True

    def _has_happened(self, command: str) -> bool:
        mark = self._folder / hashlib.sha256(command.encode()).hexdigest()
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return True
        return False


class FaultyPipeline(SimulatedPipeline):
    """Meets its faults before an image's first step (`starting`), after its second (`denoising`), and before it is
    handed over (`decoding`).
    """

    def __init__(self, step_ms: float, faults: Faults) -> None:
        super().__init__(step_ms)
        self._faults = faults
        self._is_broken = faults.is_chosen("fail while working")
        if faults.is_chosen("hang while loading"):
            _hang()

    def start(self, request: ImageRequest, inputs: InputImages = NO_INPUTS) -> SimulatedImage:
        if self._is_broken:
            _raise()
        self._faults.meet(request.prompt, "starting")
        return super().start(request, inputs)

    def advance(self, images: Sequence[SimulatedImage]) -> None:
        super().advance(images)
        for image in images:
            if image.step == 2:
                self._faults.meet(image.request.prompt, "denoising")

    def finish(self, image: SimulatedImage) -> RenderedImage:
        self._faults.meet(image.request.prompt, "decoding")
        return super().finish(image)


class FaultyStorage(LocalStorage):
    """A storage that meets the faults of an image's job while it is `storing`, half of its bytes written."""

    def __init__(self, folder: Path, faults: Faults, store: JobStore) -> None:
        super().__init__(folder)
        self._faults = faults
        self._store = store

    def put(self, key: str, content: bytes) -> None:
        job = self._store.get(key[:36])
        if job:
            self._faults.meet(job.request.prompt, "storing")
        super().put(key, content)


class FaultyStore(JobStore):
    """A job store that meets its faults when the images are stored and the job is completed (`telling`)."""

    def __init__(self, farm: Farm, faults: Faults) -> None:
        settings = farm.settings
        terms = Terms(settings.lease_seconds, settings.max_attempts, settings.queue_limit, settings.result_ttl)
        super().__init__(farm.redis, terms)
        self._faults = faults

    def complete(self, job: Claimed, result: Result) -> bool:
        self._faults.meet(job.request.prompt, "telling")
        return super().complete(job, result)


def work(farm: Farm, options: Options) -> int:
    wakeup_watchdog._MAX_MISSED = round(TIMEOUT_SECONDS)
    faults = Faults(options.data_dir / "faults")
    store = FaultyStore(farm, faults)
    storage = FaultyStorage(options.data_dir / "images", faults, store)
    faulty = replace(farm, store=store, storage=storage)
    pipeline = partial(FaultyPipeline, farm.settings.simulated_step_ms, faults)
    return WorkerProcess(faulty, pipeline, TIMEOUTS, worker=options.worker, device="cpu").run()


if __name__ == "__main__":
    run("faulty worker", work, service="worker")
