"""`make demo-ops`: break a farm beside Prometheus and Alertmanager. Exit 1 if an alert does not fire and resolve."""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from tests.demo_ops.demonstration import print_table, run


def main() -> None:
    parser = argparse.ArgumentParser(prog="make demo-ops", description="Breaks a farm, and waits for the alerts.")
    parser.add_argument("--divisor", type=int, default=10, help="By how much the times of all rules are divided.")
    options = parser.parse_args()
    print(f"windows and waits of all rules: divided by {options.divisor}", flush=True)
    with tempfile.TemporaryDirectory(prefix="farm-demo-ops-") as folder:
        courses = run(Path(folder), divisor=options.divisor, say=partial(print, flush=True))
    print_table(courses)
    sys.exit(0 if all(course.is_complete for course in courses) else 1)


if __name__ == "__main__":
    main()
