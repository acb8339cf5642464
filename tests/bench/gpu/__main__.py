"""`python -m tests.bench.gpu`: measure, and print the tables. Without a card, says so and exits 0.

`--tiny` measures a tiny network on whatever device there is: a test of the benchmark itself.
"""

from __future__ import annotations

import argparse
import sys
from importlib import util

from farm.domain.errors import FarmError
from farm.settings import Settings, load


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-gpu", description=__doc__)
    parser.add_argument("--tiny", action="store_true", help="measure a tiny network, on a card or not")
    parser.add_argument("--quick", action="store_true", help="measure two sizes only")
    parser.add_argument("--cold-start", action="store_true", help="only load, warm up, and print the seconds")
    options = parser.parse_args()
    settings = load()
    reason = "" if options.tiny else _why_not(settings)
    if reason:
        print(f"No render benchmark: {reason}.")
        return
    from tests.bench.gpu.benchmark import Benchmark

    try:
        benchmark = Benchmark(settings, tiny=options.tiny, quick=options.quick)
        if options.cold_start:
            benchmark.start_cold()
        else:
            benchmark.run()
    except FarmError as error:
        sys.exit(f"bench-gpu: {error}")


def _why_not(settings: Settings) -> str:
    """Return the reason why nothing can be measured here; empty if it can."""
    if util.find_spec("torch") is None:
        return "torch is not installed"
    import torch

    if settings.device is not None and not settings.device.startswith("cuda"):
        return f"FARM_DEVICE={settings.device} is no CUDA card"
    return "" if torch.cuda.is_available() else "no CUDA card is here"


if __name__ == "__main__":
    main()
