"""Signals that ask a process to stop."""

from __future__ import annotations

import os
import queue
import signal
from types import FrameType

#: Seconds after which the main thread looks for signals that another thread has received.
_LOOK_SECONDS = 1.0


def stop_signals() -> tuple[signal.Signals, ...]:
    """Return the signals that ask this process to stop; without SIGHUP if it ignores that from its start (`nohup`)."""
    always = (signal.SIGINT, signal.SIGTERM)
    return always if signal.getsignal(signal.SIGHUP) is signal.SIG_IGN else (*always, signal.SIGHUP)


class StopSignals:
    """Signals that ask the process to stop, for its main thread to wait for.

    The handler only puts the signal into a queue, which is safe whatever it interrupts; setting an event is not where
    the same thread waits for that event.
    """

    def __init__(self, *numbers: signal.Signals) -> None:
        """Handle the signals `numbers` from now on. Call it in the main thread."""
        self._received: queue.SimpleQueue[int] = queue.SimpleQueue()
        for number in numbers:
            signal.signal(number, lambda received, _frame: self._received.put(received))

    def wait(self, seconds: float) -> bool:
        """Wait up to `seconds` for a signal, and return True if one came."""
        try:
            self._received.get(timeout=seconds)
        except queue.Empty:
            return False
        return True

    def wait_for_one(self) -> None:
        """Wait until a signal comes.

        The kernel may have any thread receive it, and Python's handler runs once the main thread, which waits here,
        wakes up by itself.
        """
        while not self.wait(_LOOK_SECONDS):
            pass


def exit_at_once(_number: int, _frame: FrameType | None) -> None:
    """End the process: the handler of SIGTERM until graceful shutdown is set up, while nothing is held.

    Raising an exception would not do: in a callback of the interpreter's, as there are many during imports, it is only
    printed, and the process would go on as if it had not been asked.
    """
    os._exit(0)
