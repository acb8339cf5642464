"""A render worker process: loads and warms a pipeline, then answers wake-ups until it is told to drain."""

from __future__ import annotations

import faulthandler
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import structlog
from prometheus_client import ProcessCollector

from farm import __version__, clock
from farm.bootstrap import Farm, checkpoints_of, loras_of, memory_choice
from farm.concurrency.periodic import PeriodicThread
from farm.domain.errors import ConfigurationError, FarmError, with_detail
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.notifications import listen_for_stops
from farm.jobstore.previews import PreviewChannels
from farm.process.child import EXIT_FAULTY
from farm.settings import Settings
from farm.step_masks import read_levels
from farm.telemetry import port
from farm.telemetry.worker_metrics import WorkerCollector
from workers.celery_worker import consume
from workers.encode import Encoder
from workers.figures import Figures, card_uuid
from workers.health import FailureCounter, Fault, fault_of
from workers.lease import Lease, StageTimeouts
from workers.pipelines.pipeline import MINIATURE, SIMULATED, Pipeline
from workers.previews import Previews
from workers.publish import Publisher
from workers.render import Renderer
from workers.safety import Checker, checker_for
from workers.wakeup_watchdog import WakeupWatchdog
from workers.warming import WarmUpThread

_log = structlog.get_logger(__name__)


class WorkerProcess:
    """The worker of one device."""

    def __init__(
        self, farm: Farm, load: Callable[[], Pipeline], timeouts: StageTimeouts, *, worker: str, device: str
    ) -> None:
        """Prepare the worker with this id and the pipeline that `load` returns. `device`: its name, for people."""
        self._farm = farm
        self._load = load
        self._timeouts = timeouts
        self._device = device
        self._id = worker
        self._draining = threading.Event()
        self._pipeline: Pipeline | None = None
        self._renderer: Renderer | None = None
        self._is_warm = False
        self._figures = Figures(card_uuid(renders_on(farm.settings)))
        self._lease = Lease(
            farm.store, worker=self._id, facts=self._facts, seconds=farm.settings.lease_seconds, timeouts=timeouts
        )
        self._failure_counter = FailureCounter(self._drain, has_others=self._has_others, device=device)

    def run(self) -> int:
        """Load, warm up, work, drain, and return the exit status of the process."""
        # An engine that never releases the GIL stops the lease's watchdog, too; this one is a timer in C, which the
        # periodic thread resets. At once, too: such a call may come within the first second.
        reset_timer = partial(faulthandler.dump_traceback_later, self._timeouts.load, exit=True)
        reset_timer()
        PeriodicThread(reset_timer).start()
        self._lease.start()
        port.serve(self._farm.settings, ProcessCollector(registry=None), WorkerCollector(self._id, self._facts))
        try:
            checker = self._load_checker()
            status = self._serve(self._warm_pipeline(checker), checker)
        finally:
            self._lease.close()
            self._deregister()
        _log.info("worker has drained", worker=self._id)
        return EXIT_FAULTY if self._failure_counter.is_faulty else status

    def _load_checker(self) -> Checker | None:
        """Return the checker. Called before the pipeline is loaded: a setting that does not fit fails at once."""
        settings = self._farm.settings
        with self._lease.watchdog.guard(self._timeouts.load, "loading"):
            return checker_for(settings, weights_of(settings))

    def _warm_pipeline(self, checker: Checker | None) -> Pipeline:
        began = clock.monotonic()
        with self._lease.watchdog.guard(self._timeouts.load, "loading"), refuse_without_memory():
            pipeline = self._load()
            loaded = clock.monotonic()
            pipeline.warm_up()
            if self._farm.settings.previews:
                pipeline.fit_previews()
            if checker:
                checker.use_card(renders_on(self._farm.settings))
        warm = clock.monotonic()
        self._figures.record_start(load_seconds=loaded - began, warm_up_seconds=warm - loaded)
        _log.info("pipeline is warm", weights=pipeline.weights, seconds=round(warm - began, 2))
        return pipeline

    def _deregister(self) -> None:
        try:
            self._farm.store.remove_worker(self._id, self._pipeline.models if self._pipeline else ())
        except FarmError as error:
            # Its missing heartbeat tells the same a little later.
            _log.warning("worker not deregistered", error=with_detail(error))

    def _drain_if_told(self) -> None:
        if not self._draining.is_set() and self._farm.store.is_draining(self._id):
            _log.info("this worker was told to drain", worker=self._id)
            self._drain()

    def _drain(self) -> None:
        """Drain: claim nothing more, and release what cannot be finished."""
        self._draining.set()
        self._lease.renew_now()
        os.kill(os.getpid(), signal.SIGTERM)

    def _serve(self, pipeline: Pipeline, checker: Checker | None) -> int:
        settings, store = self._farm.settings, self._farm.store
        encoder = Encoder(weights=pipeline.weights, build=pipeline.build, with_prompt=settings.metadata_prompt)
        publisher = Publisher(
            store,
            storage=self._farm.storage,
            encoder=encoder,
            checker=checker,
            lease=self._lease,
            failure_counter=self._failure_counter,
            draining=self._draining,
        )
        self._renderer = Renderer(
            store,
            worker=self._id,
            pipeline=pipeline,
            storage=self._farm.storage,
            lease=self._lease,
            failure_counter=self._failure_counter,
            publisher=publisher,
            wake_ups=self._farm.wake_ups,
            has_work=partial(self._has_work, pipeline.models),
            draining=self._draining,
            previews=self._previews(pipeline),
        )
        wakeup_watchdog = WakeupWatchdog(partial(self._has_work, pipeline.models))
        listen_for_stops(connect_to_listen(self._farm.redis_url), self._lease.stop_rendering)
        peers = self._farm.peers("worker")
        peers.join()
        tasks = (self._farm.service.reap, wakeup_watchdog.check, self._drain_if_told, self._farm.tally.flush_when_due)
        PeriodicThread(*tasks, peers.announce_when_due).start()
        PeriodicThread(self._farm.sweeper.run_once).start()
        self._lease.watchdog.is_compiling = lambda: pipeline.is_compiling
        WarmUpThread(pipeline.later_warm_ups(), is_idle=self._is_idle).start()
        self._pipeline = pipeline
        status = consume(
            self._farm.celery,
            wakeup_watchdog.watch(self._renderer.work),
            name=self._id,
            on_ready=self._ready,
            on_drain=self._draining.set,
        )
        self._renderer.close()
        publisher.close(seconds=settings.grace_seconds / 2)
        return status

    def _previews(self, pipeline: Pipeline) -> Previews | None:
        """Return what takes previews, started, unless they are off."""
        if not self._farm.settings.previews:
            return None
        previews = Previews(PreviewChannels(self._farm.redis), pipeline=pipeline, lease=self._lease)
        previews.start()
        return previews

    def _is_idle(self) -> bool:
        return self._is_warm and self._lease.is_idle and not self._draining.is_set()

    def _has_work(self, models: tuple[str, ...]) -> bool:
        """Return True if jobs wait for a worker that serves these models, and may be claimed."""
        return self._farm.stats.startable(models) > 0

    def _has_others(self) -> bool:
        """Return True if any other worker could render what this one renders."""
        assert self._pipeline is not None
        ours, patience = set(self._pipeline.models), 3 * self._farm.settings.lease_seconds
        return any(
            other.id != self._id
            and other.facts.get("state") == "warm"
            and other.silent_seconds < patience
            and ours.issubset(other.facts.get("models", "").split(","))
            for other in self._farm.stats.workers()
        )

    def _ready(self) -> None:
        self._is_warm = True
        self._lease.renew_now()

    def _facts(self) -> dict[str, str]:
        """Return the state and properties of this worker, for the job store."""
        settings, pipeline, renderer = self._farm.settings, self._pipeline, self._renderer
        facts = {
            "state": self._state(),
            "host": socket.gethostname(),
            "pid": str(os.getpid()),
            "version": __version__,
            "weights": weights_of(settings),
            "device": self._device,
        }
        if pipeline is not None and renderer is not None:
            hits, misses = pipeline.prompt_cache
            facts |= {
                "models": ",".join(pipeline.models),
                "weights": pipeline.weights,
                "build": pipeline.build,
                "safety": settings.safety or "bundled",
                "busy_seconds_total": f"{renderer.busy_seconds:.3f}",
                "prompt_cache_hits_total": str(hits),
                "prompt_cache_misses_total": str(misses),
            }
        return facts | self._figures.read()

    def _state(self) -> str:
        if self._failure_counter.is_faulty:
            return "faulty"
        if self._draining.is_set():
            return "draining"
        return "warm" if self._is_warm else "loading"


@contextmanager
def refuse_without_memory() -> Iterator[None]:
    """Convert an error for exhausted memory, inside the block, to one line: the next start would meet it, too."""
    try:
        yield
    except Exception as error:
        if fault_of(error) is not Fault.OUT_OF_MEMORY:
            raise
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(
            f"The memory ran out while the model was loaded ({reason}); stop what else uses the device, or choose "
            "weights and settings for a smaller card: docs/cards.md"
        ) from error


def load_pipeline(settings: Settings, data_dir: Path | None = None) -> Pipeline:
    """Return the pipeline of the settings. Engines are imported here, so that a simulated worker needs no torch.

    What is measured for it is kept in `data_dir`.
    """
    levels = read_levels(settings.step_masks)
    if settings.pipeline == "simulated":
        from workers.pipelines.simulated import SimulatedPipeline

        return SimulatedPipeline(settings.simulated_step_ms, levels)
    from workers.pipelines import loading
    from workers.pipelines.execution import Execution

    checkpoints = checkpoints_of(settings)
    measurements = data_dir / "forward" if data_dir else None
    execution = Execution(settings.attention, settings.compile, levels, settings.forward, measurements)
    choice, loras = memory_choice(settings), loras_of(settings)
    if not checkpoints.are_set:
        return loading.load_miniature(settings.device, execution=execution, choice=choice, loras=loras)
    return loading.load_checkpoints(
        checkpoints, settings.accept_licenses, settings.device, execution, choice, loras=loras
    )


def weights_of(settings: Settings) -> str:
    """Return the name of the weights of the settings, which is known before they are loaded."""
    if settings.pipeline == "simulated":
        return SIMULATED
    return checkpoints_of(settings).name or MINIATURE


def device_of(settings: Settings) -> str:
    """Return the device of the settings; which is the best one is known only once torch is loaded."""
    return settings.device or ("best device" if checkpoints_of(settings).are_set else "cpu")


def renders_on(settings: Settings) -> str | None:
    """Return FARM_DEVICE, or the CPU where what is rendered without it stays there; None: the best device."""
    is_real = settings.pipeline == "flux" and checkpoints_of(settings).are_set
    return settings.device or (None if is_real else "cpu")
