"""`python -m workers`: a render worker."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from farm.bootstrap import build
from farm.errors import ConfigurationError, FarmError
from farm.lifeline import UNUSABLE
from farm.settings import load
from farm.telemetry import set_up_log
from workers.process import WorkerProcess


def main() -> None:
    parser = argparse.ArgumentParser(prog="farm worker")
    parser.add_argument("--data-dir", type=Path, default=Path(".farm"))
    options = parser.parse_args()
    try:
        settings = load()
        set_up_log(settings.log)
        WorkerProcess(build(settings, options.data_dir), options.data_dir).run()
    except FarmError as error:
        print(f"farm worker: {error}", file=sys.stderr)
        sys.exit(UNUSABLE if isinstance(error, ConfigurationError) else 1)


if __name__ == "__main__":
    main()
