"""`make bench-peers`: images a minute and waiting times of each contestant in turn, then what a killed worker costs.

It exits with 1, and names them, if the farm misses any of its goals.
"""

from __future__ import annotations

import argparse
import os
import signal
import statistics
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory

import urllib3

from tests.bench.peers.contestants import (
    SIZE,
    STEPS,
    WORKERS,
    Contestant,
    farm,
    flask_celery,
    served,
)

CALLERS = 8
#: Images of the run in which a worker is killed.
FAULT_IMAGES = 40
EXACT = {"none": "farm, `none`", "regular": "farm, `regular`"}
SHARED = {"none": "farm, `none`, FARM_FORWARD=shared", "regular": "farm, `regular`, FARM_FORWARD=shared"}
#: At least so many images as the best peer.
GOALS: Mapping[str, float] = {EXACT["none"]: 1.0, SHARED["none"]: 1.2, SHARED["regular"]: 1.5}
#: The slowest answer of a farm of which a worker is killed, in seconds, is below this; and no image is lost.
MAX_ANSWER_SECONDS = 8.0
#: How long a process is watched for whether it works, in seconds.
_WATCH_SECONDS = 1.0


class Load:
    """Images that eight callers asked a contestant for, each the next one as soon as it has the last."""

    def __init__(self, contestant: Contestant, goes_on: Callable[[int], bool]) -> None:
        """Start. `goes_on` returns True if the image of this number is still asked for."""
        self._contestant = contestant
        self._goes_on = goes_on
        self._numbers = count(1)
        self._began = time.monotonic()
        self._ticks = _all_ticks(contestant)
        self._http = urllib3.PoolManager(maxsize=CALLERS)
        self._pool = ThreadPoolExecutor(CALLERS)
        self._calls: list[Future[None]] = [self._pool.submit(self._call) for _ in range(CALLERS)]
        self.times: list[float] = []
        self.lost = 0
        self.seconds = 0.0
        #: Processor time of all the contestant's processes.
        self.processor_seconds = 0.0

    def join(self) -> Load:
        for call in self._calls:
            call.result()
        self.seconds = time.monotonic() - self._began
        self.processor_seconds = (_all_ticks(self._contestant) - self._ticks) / os.sysconf("SC_CLK_TCK")
        self._pool.shutdown()
        self._http.clear()
        return self

    @property
    def rate(self) -> float:
        """Images a minute."""
        return 60 * (len(self.times) - self.lost) / self.seconds

    def _call(self) -> None:
        while self._goes_on(number := next(self._numbers)):
            began = time.monotonic()
            came = self._contestant.ask(self._http, number)
            self.times.append(time.monotonic() - began)
            self.lost += not came


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-peers", description="The farm beside its peers, in one run.")
    parser.add_argument("--rounds", type=int, default=5, help="Rounds; in each, every contestant has its turn.")
    parser.add_argument("--seconds", type=float, default=10.0, help="Seconds of a turn.")
    options = parser.parse_args()
    with TemporaryDirectory(prefix="farm-peers-") as folder, ExitStack() as stack:
        contestants = _start(stack, Path(folder))
        print(f"{', '.join(contestant.name for contestant in contestants)}: all have rendered", flush=True)
        print(f"{SIZE}x{SIZE}, {STEPS} steps, {CALLERS} callers, {WORKERS} workers each", flush=True)
        ratios = _print_speed(contestants, _measure(contestants, options.rounds, options.seconds))
        missed = [*missed_goals(ratios), *_print_faults(contestants)]
    print(f"\nMissed: {'; '.join(missed)}" if missed else "\nEvery goal is met.")
    sys.exit(1 if missed else 0)


def missed_goals(ratios: Mapping[str, float]) -> list[str]:
    """Return the goals that are missed, from each contestant's rate beside that of the best peer."""
    return [
        f"{name}: {ratios.get(name, 0):.2f} times the best peer, not {goal:.1f}"
        for name, goal in GOALS.items()
        if ratios.get(name, 0) < goal
    ]


def _start(stack: ExitStack, folder: Path) -> list[Contestant]:
    """Start all contestants. One that does not start is left out."""
    found: list[Contestant] = []
    for opened in (
        farm(folder / "exact", "exact", EXACT),
        farm(folder / "shared", "shared", SHARED),
        served("LitServe", "tests.bench.peers.lit_serve", folder),
        served("Ray Serve", "tests.bench.peers.ray_serve", folder),
        flask_celery(folder),
    ):
        try:
            found += stack.enter_context(opened)
        except AssertionError as error:
            print(f"left out: {error}", flush=True)
    return found


def _measure(contestants: Sequence[Contestant], rounds: int, seconds: float) -> list[list[Load]]:
    """Return the loads of each contestant, one a round; the first round, which warms them up, does not count."""
    loads = [[_timed(contestant, contestants, seconds) for contestant in contestants] for _ in range(rounds + 1)]
    return [list(column) for column in zip(*loads[1:], strict=True)]


def _timed(contestant: Contestant, contestants: Sequence[Contestant], seconds: float) -> Load:
    with _stopped_but(contestant, contestants):
        until = time.monotonic() + seconds
        load = Load(contestant, lambda _number: time.monotonic() < until).join()
    print(f"{contestant.name}: {load.rate:.1f} images a minute, {load.lost} lost", file=sys.stderr, flush=True)
    return load


@contextmanager
def _stopped_but(contestant: Contestant, contestants: Sequence[Contestant]) -> Iterator[None]:
    """Have one contestant the machine for itself: LitServe takes a fourth of a core even where nobody asks it."""
    others = {pid for other in contestants if other.roots != contestant.roots for pid in other.processes}
    try:
        _signal(others, signal.SIGSTOP)
        yield
    finally:
        _signal(others, signal.SIGCONT)


def _signal(processes: Iterable[int], number: signal.Signals) -> None:
    for pid in processes:
        with suppress(ProcessLookupError):
            os.kill(pid, number)


def _print_speed(contestants: Sequence[Contestant], loads: list[list[Load]]) -> dict[str, float]:
    """Print the table, and return each contestant's rate beside that of the best peer."""
    rates = [[load.rate for load in turns] for turns in loads]
    peers = [found for contestant, found in zip(contestants, rates, strict=True) if contestant.is_peer]
    best_peer = [max(of_round) for of_round in zip(*peers, strict=True)]
    print("\n| | images a minute | beside the best peer | processor time of an image | p50 | p99 | lost |")
    print("|---|---|---|---|---|---|---|")
    ratios = {}
    for contestant, turns, found in zip(contestants, loads, rates, strict=True):
        ratio = ratios[contestant.name] = statistics.median(
            rate / best for rate, best in zip(found, best_peer, strict=True)
        )
        times = sorted(seconds for load in turns for seconds in load.times)
        p50, p99 = statistics.median(times), times[int(0.99 * (len(times) - 1))]
        lost, rate = sum(load.lost for load in turns), statistics.median(found)
        work = sum(load.processor_seconds for load in turns) / len(times)
        print(f"| {contestant.name} | {rate:.0f} | {ratio:.2f} | {work:.2f} s | {p50:.1f} s | {p99:.1f} s | {lost} |")
    return ratios


def _print_faults(contestants: Sequence[Contestant]) -> list[str]:
    """Print the table, and return the goals that are missed."""
    missed = []
    print(
        f"\n| a worker killed, {FAULT_IMAGES} images | lost | slowest answer | serves afterwards |\n|---|---|---|---|"
    )
    for contestant in contestants:
        if "regular" in contestant.name:
            continue
        with _stopped_but(contestant, contestants), urllib3.PoolManager() as http:
            load = Load(contestant, lambda number: number <= FAULT_IMAGES)
            os.kill(_busiest(contestant), signal.SIGKILL)
            load.join()
            serves = "yes" if contestant.ask(http, 0) else "no"
        slowest = max(load.times)
        print(f"| {contestant.name} | {load.lost} | {slowest:.1f} s | {serves} |", flush=True)
        if not contestant.is_peer and (load.lost or slowest >= MAX_ANSWER_SECONDS):
            missed.append(f"{contestant.name}, a worker killed: {load.lost} lost, slowest answer {slowest:.1f} s")
    return missed


def _busiest(contestant: Contestant) -> int:
    """Return the process of a contestant that has worked most during a second: one that renders."""
    before = {pid: _ticks(pid) for pid in contestant.processes}
    time.sleep(_WATCH_SECONDS)
    return max(before, key=lambda pid: _ticks(pid) - before[pid])


def _all_ticks(contestant: Contestant) -> int:
    """Return the processor time of a contestant's processes."""
    return sum(map(_ticks, contestant.processes))


def _ticks(pid: int) -> int:
    """Return the processor time of a process."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0
    return int(fields[11]) + int(fields[12])


if __name__ == "__main__":
    main()
