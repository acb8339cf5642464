"""Equal lines of a log: the first one is written, then their number every half minute, for as long as they come."""

from __future__ import annotations

import re
import threading
from collections.abc import MutableMapping
from dataclasses import dataclass
from typing import Any

import structlog

from farm.concurrency.background_thread import BackgroundThread

#: How often the number of equal lines is written, in seconds.
REPEAT_SECONDS = 30.0
#: Lines that are equal in these are equal: what else they have differs each time.
_SAME = (
    *("logger", "level", "job", "delivery", "receiver", "code", "route", "key", "thread", "family", "name"),
    *("child", "child_pid"),  # each death of a process is a line
)
#: What other libraries write into their lines, and differs each time: seconds, but not an address; an object's place.
_VARIABLE = re.compile(r"(?<![\d.])\d+\.\d+(?!\.?\d)|0x[0-9a-f]+")
_LEVELS = frozenset({"warning", "error", "critical"})
#: Lines below warnings that may come in great numbers, too.
_NUMEROUS = frozenset({"call refused"})

Event = MutableMapping[str, Any]


@dataclass(slots=True)
class _Repeated:
    """A line that was left out, the last of so many."""

    last: Event
    count: int = 0


class Repeats:
    """A processor of structlog that leaves out warnings and errors that repeat. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._seen: dict[tuple[Any, ...], _Repeated] = {}
        self._thread: BackgroundThread | None = None

    def __call__(self, _logger: object, _method: str, event: Event) -> Event:
        if not _may_repeat(event) or event.pop("is_repeated", False):
            return event
        key = (_VARIABLE.sub("", str(event["event"])), *(event.get(name) for name in _SAME))
        with self._lock:
            self._start_thread()
            seen = self._seen.get(key)
            if seen is None:
                self._seen[key] = _Repeated(event)
                return event
            seen.last, seen.count = event, seen.count + 1
        raise structlog.DropEvent

    def flush(self) -> None:
        """Write how many lines were left out since the last time, and forget those that have not come again."""
        with self._lock:
            repeated = [seen for seen in self._seen.values() if seen.count]
            left_out = [(seen.last, seen.count) for seen in repeated]
            self._seen = {key: _Repeated(seen.last) for key, seen in self._seen.items() if seen.count}
        for last, count in left_out:
            _write(last, count)

    def close(self) -> None:
        """Stop the thread that flushes, and write nothing more."""
        if self._thread is not None:
            self._thread.close()

    def _start_thread(self) -> None:
        """Start the thread that flushes, also in a process that was forked since."""
        if self._thread is None or not self._thread.is_alive():
            self._thread = BackgroundThread("repeats", self.flush, pause=lambda: REPEAT_SECONDS)
            self._thread.start()


def _may_repeat(event: Event) -> bool:
    return event["level"] in _LEVELS or event["event"] in _NUMEROUS


def _write(last: Event, count: int) -> None:
    fields = {name: value for name, value in last.items() if name not in ("level", "logger", "event", "exc_info")}
    logger = structlog.get_logger(last["logger"])
    getattr(logger, last["level"])(last["event"], **fields, repeated=count, is_repeated=True)
