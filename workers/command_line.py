"""The command line of a worker process, and the exit status of its errors."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import uuid
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from farm.bootstrap import Farm, build, say_if_storage_fails
from farm.domain.errors import ConfigurationError, FarmError, NoDevice, with_detail
from farm.jobstore.peers import leave
from farm.printable import say
from farm.process.child import EXIT_CONFIG, EXIT_NO_DEVICE
from farm.process.signals import exit_at_once, stop_signals
from farm.process.worker_deaths import worker_id
from farm.settings import load
from farm.telemetry.log import set_up_log
from farm.tracing import tracer


@dataclass(frozen=True, slots=True)
class Options:
    """The options of a worker. `device_name`: the name of its card in messages, if the process sees no other card.

    `worker`: the id of this process.
    """

    data_dir: Path
    device_name: str | None
    worker: str


def run(name: str, work: Callable[[Farm, Options], int], *, service: str) -> None:
    """Call `work` with the farm of `--data-dir`, and exit with its status. An error is printed in one line.

    The lines of the log name the process as `service`, and by its id.
    """
    for number in stop_signals():
        if number is not signal.SIGINT:
            signal.signal(number, exit_at_once)
    options = _options(name)
    try:
        settings = load()
        set_up_log(settings.log, service=service, worker=options.worker)
        tracer.set_up(service=service, instance=options.worker)
        farm = build(settings, options.data_dir)
        say_if_storage_fails(farm.storage, farm.ownership)
        status = work(farm, options)
        with suppress(FarmError):  # the last counts of this process are lost then
            farm.tally.flush()
            leave(farm.redis)
        tracer.close()
    except FarmError as error:
        who = f"{name} on {options.device_name}" if options.device_name else name
        say(f"{who}: {with_detail(error)}", file=sys.stderr)
        status = _exit_status(error)
    sys.exit(status)


def _options(name: str) -> Options:
    parser = argparse.ArgumentParser(prog=name)
    parser.add_argument("--data-dir", type=Path, default=Path(".farm"))
    parser.add_argument("--device-name")
    # Who starts the process may give the end of its id, and so knows it.
    parser.add_argument("--token", default=uuid.uuid4().hex[:6])
    parsed = parser.parse_args()
    return Options(parsed.data_dir, parsed.device_name, worker_id(os.getpid(), parsed.token))


def _exit_status(error: FarmError) -> int:
    if isinstance(error, NoDevice):
        return EXIT_NO_DEVICE
    return EXIT_CONFIG if isinstance(error, ConfigurationError) else 1
