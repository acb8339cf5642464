"""`make bench`: the benchmarks without a GPU, each beside its baseline in the same run. Exit 1 if one is missed."""

from __future__ import annotations

import logging
import sys
import tempfile
from pathlib import Path

import structlog

from tests.bench import bare_celery, batching, calls, control, engine, rendering, tracing
from tests.bench.figure import print_table


def main() -> None:
    # Some benchmarks claim jobs in processes of their own, which would log each.
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.WARNING))
    with tempfile.TemporaryDirectory(prefix="farm-bench-") as folder:
        root = Path(folder)
        figures = [
            *calls.figures(root / "calls"),
            *control.figures(root / "control"),
            *bare_celery.figures(root / "bare-celery"),
            *tracing.figures(root / "tracing"),
            *rendering.figures(root / "rendering"),
            *engine.figures(),
            *batching.figures(root / "batching"),
        ]
    print_table(figures)
    print(
        f"\n{calls.NOTE}\n{control.NOTE}\n{bare_celery.NOTE}\n{tracing.NOTE}\n{rendering.NOTE}\n{engine.NOTE}\n{batching.NOTE}"
    )
    sys.exit(0 if all(figure.is_met for figure in figures) else 1)


if __name__ == "__main__":
    main()
