"""`python -m tests.faulty_background`: the real background worker, which dies by kill -9 on command.

A file in the folder `faults` of the farm's data is the command, for the one process that finds it.
"""

from __future__ import annotations

from collections.abc import Mapping
from itertools import count
from typing import Any, NamedTuple

from farm.bootstrap import Farm
from farm.bulk.files import BulkFiles
from farm.bulk.results import ResultFile
from farm.bulk.validation import FileCheck
from tests.faulty_worker import FAULTS, Faults
from workers.background import BackgroundProcess
from workers.command_line import Options, run


class Point(NamedTuple):
    """A method, and how often it has been called when the process dies."""

    owner: type
    method: str
    calls: int


POINTS: Mapping[str, Point] = {
    "die while checking": Point(FileCheck, "_check", 3),
    "die while writing": Point(ResultFile, "add", 3),
    "die between files": Point(BulkFiles, "add_results", 1),
}


def obey(command: str, point: Point, faults: Faults) -> None:
    """Have the process die at a point, if the command is there."""
    original, calls = getattr(point.owner, point.method), count(1)

    def call(*arguments: Any, **named: Any) -> Any:
        result = original(*arguments, **named)
        if next(calls) >= point.calls and faults.is_chosen(command):
            FAULTS["die"]()
        return result

    setattr(point.owner, point.method, call)


def work(farm: Farm, options: Options) -> int:
    faults = Faults(options.data_dir / "faults")
    for command, point in POINTS.items():
        obey(command, point, faults)
    return BackgroundProcess(farm, options.worker).run()


if __name__ == "__main__":
    run("faulty background worker", work, service="webhooks")
