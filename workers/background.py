"""`python -m workers.background`: delivers webhooks, prepares jobs, and keeps the farm tidy. No torch, no GPU."""

from __future__ import annotations

import os
import signal
import socket

import structlog

from farm.bootstrap import Farm
from farm.celery import PREPARE_QUEUE, PREPARE_TASK, WEBHOOK_QUEUE, WEBHOOK_TASK, WakeUps
from farm.concurrency.periodic import PeriodicThread
from farm.jobstore import redis_keys
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.notifications import Listener
from farm.ssrf_safe_http import SsrfSafeClient
from farm.webhooks.courier import Courier
from workers.celery_worker import consume, leave_at_once
from workers.command_line import run
from workers.enhancer import enhancer_for
from workers.preparing import FETCH_SECONDS, Preparer
from workers.tasks import register
from workers.wakeup_watchdog import WakeupWatchdog

_log = structlog.get_logger(__name__)


class WebhookProcess:
    """Answers wake-ups by delivering what is due, and preparing what is to be prepared.

    It hears of new deliveries and jobs at once, and of those to be tried again within a second or so.
    """

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._courier = _courier(farm)
        self._preparer = _preparer(farm)
        self._bells = {
            redis_keys.DUE: WakeUps(farm.celery, WEBHOOK_TASK, WEBHOOK_QUEUE),
            redis_keys.UNPREPARED: WakeUps(farm.celery, PREPARE_TASK, PREPARE_QUEUE),
        }

    def run(self) -> int:
        """Returns the status with which the process is to end."""
        signal.signal(signal.SIGTERM, leave_at_once)
        wakeup_watchdog = WakeupWatchdog(lambda: self._farm.deliveries.are_due() or self._farm.store.are_unprepared())
        register(self._farm.celery, WEBHOOK_TASK, wakeup_watchdog.hear(self._courier.work))
        register(self._farm.celery, PREPARE_TASK, wakeup_watchdog.hear(self._preparer.work))
        listener = Listener(connect_to_listen(self._farm.redis_url), lambda channel, _: self._bells[channel].send(1))
        for channel in self._bells:
            listener.ask_for(channel)
        listener.start()
        PeriodicThread(self._preparer.hold, self._ring_for_work, self._farm.service.reap, wakeup_watchdog.check).start()
        status = consume(
            self._farm.celery,
            name=f"webhooks-{socket.gethostname()}-{os.getpid()}",
            queues=[WEBHOOK_QUEUE, PREPARE_QUEUE],
            on_ready=self._ring_all,
            on_drain=self._drain,
        )
        self._preparer.close()
        self._courier.close()
        _log.info("webhook worker has drained")
        return status

    def _ring_all(self) -> None:
        for wake_ups in self._bells.values():
            wake_ups.send(1)

    def _ring_for_work(self) -> None:
        if self._farm.deliveries.are_due():
            self._bells[redis_keys.DUE].send(1)
        if self._farm.store.are_unprepared():
            self._bells[redis_keys.UNPREPARED].send(1)

    def _drain(self) -> None:
        self._courier.drain()
        self._preparer.drain()


def _courier(farm: Farm) -> Courier:
    settings, usual = farm.settings, farm.settings.webhook_schedule
    return Courier(
        farm.deliveries,
        store=farm.store,
        outbound=farm.outbound,
        secrets=farm.secrets,
        links=farm.links_of_the_api,
        schedules={
            "native": usual,
            "fal": settings.webhook_schedule_fal or usual,
            "wavespeed": settings.webhook_schedule_wavespeed or usual,
        },
    )


def _preparer(farm: Farm) -> Preparer:
    settings = farm.settings
    return Preparer(
        farm.store,
        storage=farm.storage,
        outbound=SsrfSafeClient(settings.webhook_allow, seconds=FETCH_SECONDS),
        enhancer=enhancer_for(settings.enhancer_dir),
        wake_ups=farm.wake_ups,
        lease_seconds=settings.lease_seconds,
    )


if __name__ == "__main__":
    run("farm worker --webhooks", lambda farm, _data_dir: WebhookProcess(farm).run())
