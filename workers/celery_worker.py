"""A Celery worker of one thread that answers wake-ups until SIGTERM or SIGINT, set up in the one way that is safe."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable
from types import FrameType
from typing import Any

from celery import Celery, signals
from celery.platforms import SecurityWarning


def consume(
    app: Celery, *, name: str, queues: list[str], on_ready: Callable[[], None], on_drain: Callable[[], None]
) -> int:
    """Answer the wake-ups of `queues`; return when told to stop and the last one has been answered.

    Returns 0, or the status with which the process is to end where Celery gave up by itself. `on_drain` is called
    inside the signal handler: it may set a flag, and no more.
    """

    def drain(**_: Any) -> None:
        on_drain()

    def ready(**_: Any) -> None:
        on_ready()

    def keep_log(**_: Any) -> None:
        """The log is set up already; without this Celery would set up its own."""

    signals.setup_logging.connect(keep_log, weak=False)
    signals.worker_shutting_down.connect(drain, weak=False)
    signals.worker_ready.connect(ready, weak=False)
    # Running as root is dangerous where messages may hold code; ours are JSON and hold nothing.
    warnings.filterwarnings("ignore", category=SecurityWarning)
    worker = app.Worker(
        hostname=f"{name}@farm",
        pool="threads",
        concurrency=1,
        queues=queues,
        without_gossip=True,
        without_mingle=True,
        loglevel="WARNING",
        quiet=True,
    )
    worker.start()
    # Also where nobody told it to: what is held then is to be handed back just the same.
    on_drain()
    return int(worker.exitcode or 0)


def leave_at_once(_number: int, _frame: FrameType | None) -> None:
    """What SIGTERM does until Celery takes over, while nothing is held: the process ends.

    An exception would not do: one that is raised in a callback of the interpreter's, as there are many during imports,
    is only printed, and the process would go on as if nobody had asked.
    """
    os._exit(0)
