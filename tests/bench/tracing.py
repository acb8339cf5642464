"""Cost of traces to a submit while they are off: the work that is done for them beside a whole submit, in one run."""

from __future__ import annotations

import logging
import statistics
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import structlog

from farm.auth.api_keys import LOCAL
from farm.bootstrap import build
from farm.domain import trace_context
from farm.domain.job import NewJob, Order
from farm.domain.request import Request
from farm.process.embedded_redis import EmbeddedRedis
from farm.service import traced
from farm.settings import Settings
from tests.bench.figure import Figure

ROUNDS = 200
#: The work for traces is too short to be timed once.
_REPEATED = 100
OFF_MAX = 0.01

NOTE = f"""\
Traces: `traces off` is the median of {ROUNDS} rounds of what a submit does for them while no endpoint is set: it looks
for a `traceparent`, and whether spans are recorded. `service.submit` is that of the service, without HTTP and log."""

_REQUEST = Request(model="srpo", prompt="a red fox", width=1024, height=768, steps=28, guidance=4.5, seed=7)
_ORDER = Order("srpo", _REQUEST)


def figures(folder: Path) -> list[Figure]:
    """Return the table's row about traces. `folder` takes the data."""
    server = EmbeddedRedis(folder)
    server.start()
    log = structlog.get_config()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    try:
        service = build(Settings(serves=frozenset({"srpo"})), folder).service
        pairs = [(_seconds(lambda: service.submit(LOCAL, _ORDER)), _seconds_off()) for _ in range(ROUNDS)]
    finally:
        structlog.configure(**log)
        server.stop()
    submit, off = (statistics.median(side) for side in zip(*pairs, strict=True))
    return [
        Figure(
            "traces off, in a submit",
            f"{off * 1e6:.2f} µs",
            off / submit,
            f"service.submit {submit * 1e6:.0f} µs",
            at_most=OFF_MAX,
        )
    ]


def _seconds_off() -> float:
    environ: dict[str, str] = {}
    new = NewJob(str(uuid.uuid4()), LOCAL.id, _ORDER)

    def work() -> None:
        for _ in range(_REPEATED):
            trace_context.cleaned(environ.get("HTTP_TRACEPARENT", ""))
            with traced(new):
                pass

    return _seconds(work) / _REPEATED


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began
