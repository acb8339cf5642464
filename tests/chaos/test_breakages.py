"""The judge can fail: six planted bugs, each of which it must report by its name."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from tests.chaos.judge import findings
from tests.chaos.planted_bugs import BREAKAGES
from tests.chaos.run import run

#: The quickest is in `make test`.
QUICK = "upload after finish"


@pytest.mark.parametrize(
    "how", [how if how == QUICK else pytest.param(how, marks=pytest.mark.full) for how in BREAKAGES]
)
def test_a_broken_farm_is_reported(how: str, tmp_path: Path) -> None:
    _, plan, rule = BREAKAGES[how]

    found = findings(run(replace(plan, prefix=("tests.chaos.planted_bugs", how)), tmp_path, None))

    assert rule in {finding.rule for finding in found}, found


@pytest.mark.full
@pytest.mark.timeout(300)
@pytest.mark.parametrize("how", BREAKAGES)
def test_the_same_run_on_the_farm_as_it_is_breaks_nothing(how: str, tmp_path: Path) -> None:
    _, plan, _ = BREAKAGES[how]

    assert findings(run(replace(plan, patience=60.0), tmp_path, None)) == []
