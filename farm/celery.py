"""The Celery application. Its messages are wake-ups: they make a worker look for jobs, and may be lost."""

from __future__ import annotations

import threading

import kombu.exceptions
import structlog
from celery import Celery
from kombu.entity import Exchange, Queue

from farm.concurrency.background_thread import BackgroundThread
from farm.jobstore import redis_keys
from farm.jobstore.connection import broker_url
from farm.settings import forget_celery_variables

RENDER_QUEUE = "render"
#: Sent by name, so that senders need not import the workers.
RENDER_TASK = "render.batches"

_log = structlog.get_logger(__name__)


def application(redis_url: str) -> Celery:
    """Return a Celery application on `redis_url`, under a key prefix of its own, with every limit set on purpose."""
    forget_celery_variables()
    queue = Queue(RENDER_QUEUE, Exchange(RENDER_QUEUE), RENDER_QUEUE, no_ack=True)  # type: ignore[no-untyped-call]
    app = Celery("srpo-farm", broker=broker_url(redis_url), set_as_current=False)
    app.conf.update(
        # The state of a job lives in its record, not in a result backend.
        result_backend=None,
        task_ignore_result=True,
        task_default_queue=RENDER_QUEUE,
        # Nothing is acknowledged. A wake-up whose acknowledgement failed would count as in progress for as long as the
        # connection seems to last, and its worker would get no other; and with memory full, Celery would give up.
        task_queues=[queue],
        task_reject_on_worker_lost=False,
        task_publish_retry=False,
        worker_prefetch_multiplier=1,
        worker_disable_prefetch=True,
        # A blip of the broker must not kill a render: the lease decides who owns it.
        worker_cancel_long_running_tasks_on_connection_loss=False,
        worker_hijack_root_logger=False,
        worker_redirect_stdouts=False,
        broker_connection_retry_on_startup=True,
        broker_connection_max_retries=None,
        # A Redis that refuses writes for a moment (its disk is full, its replicas are away) is no reason to load the
        # weights again: without this Celery would end its process, with status 1.
        broker_channel_error_retry=True,
        broker_pool_acquire_timeout=5,
        control_queue_ttl=300,
        control_queue_expires=300,
        broker_transport_options={
            "global_keyprefix": redis_keys.CELERY,
            # Without these a half-open connection hangs for ever; the first must exceed BRPOP's own second.
            "socket_timeout": 5,
            "socket_connect_timeout": 2,
            "socket_keepalive": True,
            "health_check_interval": 5,
        },
    )
    return app


class WakeUps:
    """Sends wake-ups to idle workers, from a thread of its own: a submit never waits for Celery, nor fails with it.

    Requests that come while wake-ups are being sent become one. A lost wake-up is sent again by the next reaping.
    """

    def __init__(self, app: Celery) -> None:
        self._app = app
        self._lock = threading.Lock()
        self._wanted = 0
        self._thread = BackgroundThread("wake-ups", self._send_wanted)
        self._thread.start()

    def send(self, workers: int) -> None:
        """Wake up to `workers` idle workers. Returns at once."""
        if workers <= 0:
            return
        with self._lock:
            self._wanted = max(self._wanted, workers)
        self._thread.wake()

    def _send_wanted(self) -> None:
        with self._lock:
            wanted, self._wanted = self._wanted, 0
        try:
            for _ in range(wanted):
                # No `expires`: Celery compares it with the receiver's clock, which may be ahead.
                self._app.send_task(RENDER_TASK, queue=RENDER_QUEUE, retry=False)
        except (kombu.exceptions.OperationalError, OSError) as error:
            _log.warning("wake-up not sent", error=str(error))
