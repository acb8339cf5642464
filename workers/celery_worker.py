"""A Celery worker of one thread that answers wake-ups until it is told to drain, with safe settings."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Callable
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning

from farm.celery import RENDER_QUEUE, RENDER_TASK
from farm.process.signals import stop_signals


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

    app.task(name=RENDER_TASK)(work)
    signals.setup_logging.connect(keep_log, weak=False)
    signals.worker_shutting_down.connect(drain, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    # Running as root is dangerous where messages may hold code; ours are JSON and hold nothing.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        hostname=f"{name}@farm",
        pool="threads",
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
