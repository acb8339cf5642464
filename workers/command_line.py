"""The command line of a worker process, and the exit status of its errors."""

from __future__ import annotations

import argparse
import signal
import sys
from collections.abc import Callable
from pathlib import Path

from farm.bootstrap import Farm, build, say_if_storage_fails
from farm.domain.errors import ConfigurationError, FarmError, with_detail
from farm.printable import say
from farm.process.child import EXIT_CONFIG
from farm.process.signals import exit_at_once, stop_signals
from farm.settings import load
from farm.telemetry import set_up_log


def run(name: str, work: Callable[[Farm, Path], int]) -> None:
    """Call `work` with the farm of `--data-dir`, and exit with its status. An error is printed in one line."""
    for number in stop_signals():
        if number is not signal.SIGINT:
            signal.signal(number, exit_at_once)
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--data-dir", type=Path, default=Path(".farm"))
    options = parser.parse_args()
    try:
        settings = load()
        set_up_log(settings.log)
        farm = build(settings, options.data_dir)
        say_if_storage_fails(farm.storage, farm.ownership)
        status = work(farm, options.data_dir)
    except FarmError as error:
        say(f"{name}: {with_detail(error)}", file=sys.stderr)
        status = EXIT_CONFIG if isinstance(error, ConfigurationError) else 1
    sys.exit(status)
