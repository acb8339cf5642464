"""The files that are kept of a failed run."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.judge import Finding
from tests.chaos.kept import explain, keep
from tests.chaos.records import Observations


def test_a_failed_run_leaves_its_log_and_shows_its_warnings(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "data.log"
    log.write_text('{"event": "usual", "level": "info"}\n{"event": "odd", "level": "warning"}\nTraceback: here\n')
    observations = Observations()
    observations.sweep_log = "orphaned images are kept: the storage has marks of other farms\n"

    folder = keep(observations, [Finding("orphan", "a", "b")], log=log, seed=7, into=tmp_path / "kept")
    log.unlink()
    explain(folder)

    shown = capsys.readouterr().out
    assert all(text in shown for text in ("marks of other farms", "odd", "Traceback: here", str(folder)))
    assert "usual" not in shown
    assert (folder / "findings.txt").read_text() == "orphan: a: b\n"
    assert "usual" in (folder / "farm.log").read_text()
