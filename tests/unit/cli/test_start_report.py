"""The lines that `farm up` prints until it is ready."""

from __future__ import annotations

import pytest

from farm.cli.up import StartReport
from farm.jobstore.stats import Worker

LOADING = Worker("w-1", {"state": "loading", "weights": "miniature", "device": "cpu"}, 0.1)
WARM = Worker("w-1", {"state": "warm", "weights": "miniature", "device": "cpu"}, 0.1)
OTHER = Worker("w-2", {"state": "loading", "weights": "flux-1-dev + srpo", "device": "cuda:1"}, 0.1)


def test_each_state_of_each_worker_is_printed_once(capsys: pytest.CaptureFixture[str]) -> None:
    report = StartReport()

    for workers in ([], [LOADING], [LOADING, OTHER], [WARM, OTHER], [WARM, OTHER]):
        report.tell(workers)

    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "worker w-1: loading miniature weights on cpu …",
        "worker w-2: loading flux-1-dev + srpo weights on cuda:1 …",
        "worker w-1: miniature weights on cpu: warm",
    ]
