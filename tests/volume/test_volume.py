"""The run of `make volume` with fewer lines, and more kills for each of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.farms import running_farm
from tests.volume.run import ENVIRONMENT, WORKERS, Interactive, Observations, Plan, run, wrong_conduct


@pytest.mark.full
@pytest.mark.alone
def test_every_line_has_one_result_while_workers_are_killed(tmp_path: Path) -> None:
    with running_farm(tmp_path / "data", WORKERS, None, **ENVIRONMENT) as farm:
        observed = run(Plan(lines=3000, kill_seconds=5), farm)

    assert observed.findings == []
    assert observed.kills >= 3
    assert observed.taken_back >= 1
    assert len(observed.interactive) == 5
    assert set(observed.memory) == {"API", "background worker", "render workers"}


def test_memory_that_grows_and_lone_jobs_that_wait_are_found() -> None:
    observed = Observations(100, redis_bytes_a_line=3100.0, interactive=[Interactive(0.1, 4), Interactive(9.0, 5)])
    observed.memory = {"API": (80.0, 97.0), "render workers": (80.0, 95.0)}

    assert list(wrong_conduct(observed)) == [
        "expected: a lone job waits for one batch, not for 5 lines",
        "expected: flat memory of the API: 80 to 97 MiB",
        "expected: at most 3000 bytes of Redis for a line, not 3100",
    ]
