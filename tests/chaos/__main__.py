"""`make chaos`: one long run and its table. Exit 1 if the judge finds anything."""

from __future__ import annotations

import argparse
import secrets
import sys
import tempfile
from pathlib import Path

from tests.chaos.judge import findings
from tests.chaos.kept import explain, keep
from tests.chaos.run import Plan, run
from tests.chaos.table import print_table
from tests.s3 import running_s3


def main() -> None:
    parser = argparse.ArgumentParser(prog="make chaos", description="Breaks a farm while callers use it, and judges.")
    parser.add_argument("--jobs", type=int, default=10_000, help="How much is asked for.")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**6), help="Draws asks and faults.")
    parser.add_argument("--workers", type=int, default=3, help="Render workers.")
    parser.add_argument("--clients", type=int, default=40, help="Callers at a time.")
    parser.add_argument("--folder", type=Path, help="Where everything is kept afterwards; it must be empty.")
    options = parser.parse_args()
    plan = Plan(options.jobs, options.seed, clients=options.clients, workers=options.workers)
    print(f"seed {options.seed}", flush=True)
    with tempfile.TemporaryDirectory(prefix="farm-chaos-") as temporary:
        folder = options.folder or Path(temporary)
        (folder / "s3").mkdir(parents=True)
        with running_s3(folder / "s3") as s3:
            observations = run(plan, folder, s3, say=lambda line: print(line, flush=True))
        found = findings(observations)
        print_table(observations, found, seed=options.seed)
        if found:
            explain(keep(observations, found, log=folder / "data.log", seed=options.seed))
    sys.exit(1 if found else 0)


if __name__ == "__main__":
    main()
