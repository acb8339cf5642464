"""A drill for the person on call: one of six faults at random, and how long it takes to name the runbook's section.

Only what an alert, a metric or a command of the farm tells may be looked at.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import time
from pathlib import Path

from farm.jobstore.connection import connect
from monitoring.alerts import alerts
from tests.demo_ops import quick_rules
from tests.demo_ops.breakable_farm import BreakableFarm, breakable_farm
from tests.demo_ops.breakages import BREAKAGES, Breakage
from tests.demo_ops.pager import running_pager
from tests.farms import wait_for
from tests.prometheus import Prometheus

#: How long naming a fault may take, in seconds.
LIMIT_SECONDS = 300.0
_SHARE_USED = 0.75
#: What else is a right name: the section of the worker's death says what to do about it, too.
_ALSO_RIGHT = {"FarmNobodyConsumes": "FarmWorkerLost"}
#: No cause is left. Burn rates, over hours, still tell of the fault before.
_WELL = 'absent(ALERTS{alertstate="firing", alertname!~"FarmSlo.*"})'


def fill(farm: BreakableFarm) -> None:
    """Leave Redis little memory."""
    client = connect(farm.redis.url)
    client.config_set("maxmemory", round(client.info("memory")["used_memory"] / _SHARE_USED))


def empty(farm: BreakableFarm) -> None:
    connect(farm.redis.url).config_set("maxmemory", "1gb")


FAULTS = (*BREAKAGES, Breakage("Redis has little memory left", "FarmRedisMemory", fill, empty))


def main() -> None:
    """Plant a fault, and ask for its section until it is named."""
    parser = argparse.ArgumentParser(prog="make drill", description="Plants a fault, and asks what it is.")
    parser.add_argument("--divisor", type=int, default=10, help="By how much the times of all rules are divided.")
    parser.add_argument("--rounds", type=int, default=1, help="Number of faults, one after another.")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="farm-drill-") as folder:
        times = drill(Path(folder), divisor=options.divisor, rounds=options.rounds)
    sys.exit(0 if max(times) <= LIMIT_SECONDS else 1)


def drill(folder: Path, *, divisor: int, rounds: int) -> list[float]:
    """Return how long the naming of each fault took, in seconds."""
    rules = quick_rules.write(folder, divisor=divisor)
    with breakable_farm(folder) as farm, running_pager(folder) as (_pager, alertmanager):
        prometheus = Prometheus(
            folder, [f"127.0.0.1:{farm.port}"], rules=rules, scrape_seconds=3, alertmanager=alertmanager
        )
        with prometheus.running():
            _say(f"farm http://127.0.0.1:{farm.port}   data folder {folder / 'data'}")
            _say(f"Prometheus {prometheus.url}   Alertmanager http://{alertmanager}")
            return [_round(fault, farm, prometheus) for fault in random.sample(FAULTS, rounds)]


def _round(fault: Breakage, farm: BreakableFarm, prometheus: Prometheus) -> float:
    wait_for(lambda: prometheus.query(_WELL), seconds=300, what="a farm that is well")
    fault.break_it(farm)
    began = time.monotonic()
    _say("Something is broken. Which section of the runbook is it?")
    while (named := sys.stdin.readline().strip()) not in (fault.alert, _ALSO_RIGHT.get(fault.alert)):
        if not named:
            raise EOFError("the fault was not named")
        _say("No." if named in {alert.name for alert in alerts()} else "The runbook has no such section.")
    seconds = time.monotonic() - began
    _say(f"Yes: {fault.what}. Named after {seconds:.0f} s.")
    fault.mend(farm)
    return seconds


def _say(text: str) -> None:
    print(text, flush=True)


if __name__ == "__main__":
    main()
