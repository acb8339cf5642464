"""A Celery worker of one thread that answers wake-ups until it is told to drain, with safe settings."""

from __future__ import annotations

import signal
import socket
import warnings
from collections.abc import Callable
from contextlib import suppress
from typing import Any

from celery import Celery, signals
from celery.concurrency.thread import ApplyResult, TaskPool
from celery.platforms import SecurityWarning
from celery.worker.request import Request

from farm.celery import RENDER_QUEUE, RENDER_TASK
from farm.process.signals import stop_signals


class WakingPool(TaskPool):  # type: ignore[misc]  # Celery has no types
    """Celery's pool of threads, which wakes Celery's event loop at the end of each task.

    Without events of tasks, which cost a fifth of a job's round trips, the loop would only look up to a second later
    whether the pool is free for the next message.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._woken, self._waker = socket.socketpair()
        self._woken.setblocking(False)
        self._waker.setblocking(False)

    def register_with_event_loop(self, loop: Any) -> None:
        """Have the loop wait for this pool, too. Called whenever the loop starts."""
        loop.add_reader(self._woken, self._woken.recv, 1024)

    def on_apply(self, *args: Any, **kwargs: Any) -> ApplyResult:
        """Run a task in a thread, and wake the loop when all of it has ended."""
        result = super().on_apply(*args, **kwargs)
        result.f.add_done_callback(lambda _: self._wake())
        return result

    def _wake(self) -> None:
        with suppress(BlockingIOError):
            self._waker.send(b".")


class WakeUpRequest(Request):  # type: ignore[misc]
    """A wake-up in Celery's hands. It needs no acknowledgement, and Celery sends none as long as its connection stands.

    Over one that was lost meanwhile it would, and end the process for the error, weights and all.
    """

    def acknowledge(self) -> None:
        self.acknowledged = True


def wake_up_task(app: Celery, work: Callable[[], None]) -> Any:
    """Register what a wake-up calls, and return Celery's task."""
    return app.task(name=RENDER_TASK, Request=WakeUpRequest)(work)


def consume(
    app: Celery, work: Callable[[], None], *, name: str, on_ready: Callable[[], None], on_drain: Callable[[], None]
) -> int:
    """Call `work` for each wake-up until SIGTERM, SIGINT or SIGHUP, and return when its last call has ended.

    Returns 0, or the exit status for a process whose Celery gave up by itself. `on_drain` is called inside the signal
    handler: it may only set a flag.
    """
    hears_hangups = signal.SIGHUP in stop_signals()

    def drain(**_: Any) -> None:
        on_drain()

    def ready(**_: Any) -> None:
        # Celery would restart the program.
        signal.signal(signal.SIGHUP, signal.getsignal(signal.SIGTERM) if hears_hangups else signal.SIG_IGN)
        on_ready()

    def keep_log(**_: Any) -> None:
        """Keep the log that is set up already: without a receiver Celery would set up its own."""

    wake_up_task(app, work)
    signals.setup_logging.connect(keep_log, weak=False)
    signals.worker_shutting_down.connect(drain, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    # Running as root is dangerous where messages may hold code; ours are JSON and hold nothing.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        hostname=f"{name}@farm",
        pool=WakingPool,
        concurrency=1,
        queues=[RENDER_QUEUE],
        without_gossip=True,
        without_mingle=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    # Also if Celery ended by itself: what is held is released just the same.
    on_drain()
    return int(worker.exitcode or 0)
