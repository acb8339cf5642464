"""Background threads of farms that a test builds in its own process."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from farm.concurrency.background_thread import BackgroundThread

#: For an action that is under way.
_TIMEOUT_SECONDS = 10.0


@contextmanager
def ended_background_threads() -> Iterator[None]:
    """End the background threads that start meanwhile.

    Those of a farm whose Redis is gone would say so in the log, which is what a later test reads.
    """
    before = set(threading.enumerate())
    try:
        yield
    finally:
        started = [one for one in threading.enumerate() if one not in before and isinstance(one, BackgroundThread)]
        for thread in started:
            thread.stop()
        for thread in started:
            thread.join(_TIMEOUT_SECONDS)
