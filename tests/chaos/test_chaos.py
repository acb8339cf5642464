"""The short chaos run: a whole farm, all ways to submit, every fault in turn, and a judge that finds nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.faults import ALL, Schedule
from tests.chaos.judge import findings
from tests.chaos.kept import explain, keep
from tests.chaos.run import Plan, run
from tests.chaos.table import print_table
from tests.s3 import S3

#: For so long somebody asks, in seconds; the rest of the time the farm is started, and comes to rest.
SECONDS = 35.0
#: Draws what is asked for and what is done; `make chaos` takes another each time.
SEED = 7


@pytest.mark.timeout(600)
def test_chaos_breaks_no_promise(tmp_path: Path, s3: S3) -> None:
    plan = Plan(400, SEED, clients=16, schedule=Schedule(ALL, (0.7, 2.0)), seconds=SECONDS)

    observations = run(plan, tmp_path, s3)

    found = findings(observations)
    print_table(observations, found, seed=SEED)
    if found:
        explain(keep(observations, found, log=tmp_path / "data.log", seed=SEED))
    assert found == []
    assert len(observations.records) > 10
    assert len(observations.injections) > 10
