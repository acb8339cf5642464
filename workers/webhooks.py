"""`python -m workers.webhooks`: delivers webhooks, and keeps the farm tidy. Needs no torch and no GPU."""

from __future__ import annotations

import os
import signal
import socket
import sys
from types import FrameType

import structlog

from farm.bootstrap import Farm
from farm.celery import WEBHOOK_QUEUE, WEBHOOK_TASK, Bell
from farm.jobstore import keys
from farm.jobstore.connection import connect_to_listen
from farm.jobstore.hints import Listener
from farm.reaper import Reaper
from farm.webhooks.delivery import Courier
from workers.arguments import run
from workers.consuming import consume
from workers.tasks import register

_log = structlog.get_logger(__name__)


class WebhookProcess:
    """Answers wake-ups by delivering what is due. It hears of new deliveries at once, and of those to be tried again
    within a second or so."""

    def __init__(self, farm: Farm) -> None:
        self._farm = farm
        self._bell = Bell(farm.celery, WEBHOOK_TASK, WEBHOOK_QUEUE)
        self._courier = _courier(farm)

    def run(self) -> None:
        signal.signal(signal.SIGTERM, _leave)  # until Celery takes over: nothing is held yet
        register(self._farm.celery, WEBHOOK_TASK, self._courier.work)
        listener = Listener(connect_to_listen(self._farm.redis_url), lambda _channel, _receiver: self._bell.ring(1))
        listener.ask_for(keys.DUE)
        listener.start()
        Reaper(self._farm.service.reap, self._ring_for_due).start()
        consume(
            self._farm.celery,
            name=f"webhooks-{socket.gethostname()}-{os.getpid()}",
            queue=WEBHOOK_QUEUE,
            on_ready=lambda: self._bell.ring(1),
            on_drain=self._courier.drain,
        )
        self._courier.close()
        _log.info("webhook worker has drained")

    def _ring_for_due(self) -> None:
        if self._farm.deliveries.are_due():
            self._bell.ring(1)


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


def _leave(_number: int, _frame: FrameType | None) -> None:
    sys.exit(0)


if __name__ == "__main__":
    run("farm worker --webhooks", lambda farm, _data_dir: WebhookProcess(farm).run())
