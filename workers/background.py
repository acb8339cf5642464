"""`python -m workers.background`: delivers webhooks, prepares jobs, runs bulks, and reaps. No torch, no GPU."""

from __future__ import annotations

import structlog
from prometheus_client import ProcessCollector

from farm.bootstrap import Farm
from farm.bulk.results import Results
from farm.concurrency.background_thread import BackgroundThread
from farm.concurrency.periodic import PeriodicThread
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.notifications import Listener
from farm.process.signals import StopSignals, stop_signals
from farm.ssrf_safe_http import SsrfSafeClient
from farm.telemetry import port
from farm.webhooks.courier import Courier
from workers.bulk import BulkParts, BulkRunner
from workers.command_line import run
from workers.enhancer import Enhancer, enhancer_for
from workers.enhancing import EnhancementWorker
from workers.preparing import FETCH_SECONDS, Preparer

#: How often deliveries and unprepared jobs are looked for without a notification, in seconds: one may have been lost,
#: and none tells that a retry is due.
_LOOK_SECONDS = 1.0

_log = structlog.get_logger(__name__)


class BackgroundProcess:
    """Runs a courier, a preparer and a bulk runner until it is told to stop. Notifications wake each for new work."""

    def __init__(self, farm: Farm, worker: str) -> None:
        """`worker` is the id of this process."""
        self._farm = farm
        self._courier = _courier(farm, worker)
        self._enhancer = enhancer_for(farm.settings.enhancer_dir)
        self._preparer = _preparer(farm, self._enhancer, worker)
        self._bulk_runner = _bulk_runner(farm, worker)
        self._dispatchers = {
            redis_keys.DELIVERY_DUE_CHANNEL: _dispatcher("courier", self._courier),
            redis_keys.UNPREPARED_CHANNEL: _dispatcher("preparer", self._preparer),
            redis_keys.BULK_DUE_CHANNEL: _dispatcher("bulk runner", self._bulk_runner),
            redis_keys.ENHANCEMENTS_CHANNEL: _dispatcher(
                "enhancer", EnhancementWorker(farm.enhancements, self._enhancer)
            ),
        }

    def run(self) -> int:
        """Work until SIGTERM, SIGINT or SIGHUP, drain, and return the exit status of the process."""
        stopping = StopSignals(*stop_signals())
        listener = Listener(connect_to_listen(self._farm.redis_url), self._notify)
        for channel, dispatcher in self._dispatchers.items():
            listener.subscribe(channel)
            dispatcher.start()
        listener.start()
        peers = self._farm.peers("webhook worker")
        peers.join()
        PeriodicThread(
            self._preparer.hold,
            self._bulk_runner.hold,
            self._farm.service.reap,
            self._farm.tally.flush_when_due,
            peers.announce_when_due,
        ).start()
        port.serve(self._farm.settings, ProcessCollector(registry=None))
        _log.info("background worker is ready")
        stopping.wait_for_one()
        self._drain()
        _log.info("background worker has drained")
        return 0

    def _notify(self, channel: str, _text: str) -> None:
        self._dispatchers[channel].wake()

    def _drain(self) -> None:
        """Start nothing more, and finish what is in progress. A dispatcher must not outlive the pool that it feeds."""
        self._courier.drain()
        self._preparer.drain()
        self._bulk_runner.drain()
        self._enhancer.close()
        for dispatcher in self._dispatchers.values():
            dispatcher.close()
        self._bulk_runner.close()
        self._preparer.close()
        self._courier.close()


def _dispatcher(name: str, worker: Courier | Preparer | BulkRunner | EnhancementWorker) -> BackgroundThread:
    return BackgroundThread(name, worker.work, pause=lambda: _LOOK_SECONDS)


def _courier(farm: Farm, worker: str) -> Courier:
    settings, usual = farm.settings, farm.settings.webhook_schedule
    return Courier(
        farm.deliveries,
        store=farm.store,
        outbound=farm.outbound,
        secrets=farm.secrets,
        links=farm.links_of,
        schedules={
            "native": usual,
            "fal": settings.webhook_schedule_fal or usual,
            "wavespeed": settings.webhook_schedule_wavespeed or usual,
        },
        worker=worker,
    )


def _preparer(farm: Farm, enhancer: Enhancer, worker: str) -> Preparer:
    settings = farm.settings
    return Preparer(
        farm.store,
        storage=farm.storage,
        outbound=SsrfSafeClient(settings.webhook_allow, seconds=FETCH_SECONDS),
        enhancer=enhancer,
        wake_ups=farm.wake_ups,
        lease_seconds=settings.lease_seconds,
        worker=worker,
    )


def _bulk_runner(farm: Farm, worker: str) -> BulkRunner:
    settings = farm.settings
    parts = BulkParts(
        farm.bulks,
        farm.bulk_files,
        Results(
            farm.store,
            farm.bulks,
            links=lambda bulk: farm.links_from(bulk.base),
            default_format=settings.openai_response_format,
        ),
        farm.store,
        farm.service,
        farm.image_calls,
        farm.storage,
        farm.uploads,
        settings.queue_limit,
    )
    return BulkRunner(parts, lease_seconds=settings.lease_seconds, worker=worker)


if __name__ == "__main__":
    run(
        "farm worker --webhooks",
        lambda farm, options: BackgroundProcess(farm, options.worker).run(),
        service="webhooks",
    )
