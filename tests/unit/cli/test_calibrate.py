"""`farm weights calibrate`: what it refuses before it measures anything."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from farm.cli import main


@pytest.mark.parametrize("option", ["--out", "--grid"])
@pytest.mark.parametrize("name", ["missing/file", "."])
def test_files_that_could_not_be_written_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], option: str, name: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("os.execv", lambda *_: pytest.fail("it began to measure"))
    monkeypatch.setattr(sys, "argv", ["farm", "weights", "calibrate", option, str(tmp_path / name)])

    with pytest.raises(SystemExit) as ended:
        main.main()

    printed = capsys.readouterr().err
    assert (ended.value.code, printed.count("\n")) == (2, 1)
    assert option in printed
    assert "cannot be written" in printed
