"""`make volume`: one run and its table. Exit 1 if anything is wrong."""

from __future__ import annotations

import argparse
import statistics
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.farms import running_farm
from tests.volume.run import ENVIRONMENT, WORKERS, Observations, Plan, run


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="make volume", description="Runs a bulk while workers are killed, and judges."
    )
    parser.add_argument("--lines", type=int, default=100_000, help="Lines of the bulk.")
    parser.add_argument("--kill-seconds", type=float, default=20.0, help="Seconds between two kills.")
    options = parser.parse_args()
    with (
        TemporaryDirectory(prefix="farm-volume-") as folder,
        running_farm(Path(folder) / "data", WORKERS, None, **ENVIRONMENT) as farm,
    ):
        observed = run(Plan(options.lines, options.kill_seconds), farm)
    print_table(observed)
    sys.exit(1 if observed.findings else 0)


def print_table(observed: Observations) -> None:
    """Print what was observed as a table in Markdown, and what is wrong."""
    waits = [job.seconds for job in observed.interactive]
    rows = [
        ("lines", f"{observed.lines}{'' if observed.findings else ': each has one result, in order'}"),
        ("time", f"{observed.seconds:.0f} s: {observed.lines / observed.seconds:.1f} images a second"),
        ("workers killed, jobs taken back", f"{observed.kills}, {observed.taken_back}"),
        *(
            (f"memory of the {kind}, second and last quarter", f"{before:.0f} MiB, {after:.0f} MiB")
            for kind, (before, after) in observed.memory.items()
        ),
        ("memory of Redis for a line", f"{observed.redis_bytes_a_line / 1000:.1f} KB"),
        ("a lone job starts after", f"{statistics.median(waits):.2f} s (most: {max(waits):.2f} s)" if waits else ""),
        ("lines that workers took meanwhile", f"at most {max((job.lines for job in observed.interactive), default=0)}"),
    ]
    print("| | |\n|---|---|")
    for name, value in rows:
        print(f"| {name} | {value} |")
    for finding in observed.findings:
        print(finding)


if __name__ == "__main__":
    main()
