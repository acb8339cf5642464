"""The log of a process: lines on stderr that name the process, and no line again and again during an outage."""

from __future__ import annotations

import json
import logging
import os
import sys
from contextlib import suppress
from typing import Any, Literal

import structlog
from structlog.typing import EventDict, Processor

from farm import __version__, clock
from farm.printable import printable
from farm.settings import has_colours
from farm.telemetry.repeats import Repeats

#: Celery and kombu log every reconnect and message; the farm logs what matters.
_NOISY = ("botocore", "celery", "kombu", "gunicorn.access", "urllib3")
_encode = json.JSONEncoder(ensure_ascii=False, default=repr).encode


def set_up_log(form: Literal["console", "json"] | None, **process: str) -> None:
    """Write all logs, those of libraries too, to stderr: as coloured text or as JSON lines.

    Each JSON line has `process`, such as service="worker", with the process's id and the farm's version.
    """
    as_json = form == "json" or (form is None and not sys.stderr.isatty())
    rendering: list[Processor] = [_JsonLine(process)] if as_json else _console()
    structlog.configure(
        # Straight to stderr: through logging's handlers a line would cost three times as much.
        processors=[_add_source, Repeats(), *rendering],
        wrapper_class=structlog.make_filtering_bound_logger(logging.INFO),
        logger_factory=LineLogger,
        cache_logger_on_first_use=True,
    )
    _set_up_libraries(rendering)


def _console() -> list[Processor]:
    # Plain tracebacks without local variables, which may hold an API key.
    console = structlog.dev.ConsoleRenderer(
        colors=has_colours(sys.stderr), exception_formatter=structlog.dev.plain_traceback
    )
    return [
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
        _printable_texts,
        console,
    ]


def _set_up_libraries(rendering: list[Processor]) -> None:
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=[structlog.stdlib.add_log_level, structlog.stdlib.add_logger_name],
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    for noisy in _NOISY:
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_to_stderr() -> None:
    """Write the farm's warnings to stderr as text, until `set_up_log`: the stdout of a command is its result's."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _printable_texts,
            structlog.dev.ConsoleRenderer(colors=has_colours(sys.stderr)),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING),
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


class LineLogger:
    """Writes each line to stderr at once, so that lines of several threads do not mix.

    A line that cannot be written is lost, as on a full disk or without the reader of a pipe: no call fails, and no
    process ends, for its log.
    """

    def __init__(self, name: str = "") -> None:
        self.name = name

    def msg(self, line: str) -> None:
        """Write a line."""
        with suppress(OSError):
            sys.stderr.write(line + "\n")

    debug = info = warning = error = critical = exception = msg


def _add_source(logger: Any, method: str, event: EventDict) -> EventDict:
    """Add level and logger, and leave out what is unknown."""
    event = {name: value for name, value in event.items() if value is not None}
    event["level"] = "error" if method == "exception" else method
    event["logger"] = logger.name
    return event


class _JsonLine:
    """Renders a line as JSON, and names the process in it, so that lines of several processes can be told apart."""

    def __init__(self, fields: dict[str, str]) -> None:
        self._fields = {**fields, "version": __version__}

    def __call__(self, logger: Any, method: str, event: EventDict) -> str:
        if "exc_info" in event:
            event = structlog.processors.format_exc_info(logger, method, event)
        event.update(self._fields, pid=os.getpid(), timestamp=clock.now_iso())
        return _encode(event)


def _printable_texts(_logger: object, _method: str, event: EventDict) -> EventDict:
    """Escape the control characters of every text, which may be a caller's or a receiver's, but not its lines."""
    return {name: _printable(value) for name, value in event.items()}


def _printable(value: Any) -> Any:
    return "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
