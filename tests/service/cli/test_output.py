"""The stdout of commands is their result's: whatever is logged or shown meanwhile is on stderr."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest
import structlog

from farm.doctor.examination import Examination
from farm.doctor.finding import Finding, good
from tests.service.cli.commands import Runner


def logged_findings(_: Examination) -> Iterator[Finding]:
    """Log as storage and Redis do when they fail, then find something."""
    structlog.get_logger("farm.storage").warning("the storage does not answer", detail="\x1b[2J")
    try:
        raise ValueError("in vain")
    except ValueError:
        structlog.get_logger("farm.jobstore").exception("Redis refused a command")
    yield good("nothing", "is wrong")


def test_the_doctors_json_is_json_whatever_is_logged(
    run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(Examination, "findings", logged_findings)

    ended = run("doctor", "--json", "--data-dir", str(tmp_path))

    assert json.loads(ended.out)["findings"][0]["text"] == "is wrong"
    assert "the storage does not answer" in ended.err
    assert "ValueError: in vain" in ended.err
    assert "\x1b[2J" not in ended.err
