"""The log of a process: its format, and what each line has."""

from __future__ import annotations

import logging
import sys
from typing import Literal

import structlog

from farm.printable import printable


def set_up_log(form: Literal["console", "json"] | None) -> None:
    """Write all logs, those of libraries too, to stderr: as coloured text or as JSON lines."""
    as_json = form == "json" or (form is None and not sys.stderr.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.format_exc_info,
    ]
    # Plain tracebacks without local variables, which may hold an API key.
    console = structlog.dev.ConsoleRenderer(exception_formatter=structlog.dev.plain_traceback)
    rendering = [structlog.processors.JSONRenderer()] if as_json else [_printable_texts, console]
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *rendering],
        )
    )
    root = logging.getLogger()
    root.handlers = [handler]
    root.setLevel(logging.INFO)
    # Celery and kombu log every reconnect and message; the farm logs what matters.
    for noisy in ("botocore", "celery", "kombu", "gunicorn.access", "urllib3"):
        logging.getLogger(noisy).setLevel(logging.WARNING)


def log_to_stderr() -> None:
    """Write the farm's own logs to stderr as text, until `set_up_log`: the stdout of a command is its result's."""
    structlog.configure(
        processors=[
            structlog.processors.add_log_level,
            structlog.processors.format_exc_info,
            _printable_texts,
            structlog.dev.ConsoleRenderer(colors=sys.stderr.isatty()),
        ],
        logger_factory=lambda *_: structlog.PrintLogger(sys.stderr),
    )


def _printable_texts(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Escape the control characters of every text, which may be a caller's or a receiver's, but not its lines."""
    return {
        name: "\n".join(map(printable, value.split("\n"))) if isinstance(value, str) else value
        for name, value in event.items()
    }
