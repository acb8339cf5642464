"""The drill: each of its faults is a section of the runbook, and a name that is wrong does not end it."""

from __future__ import annotations

import io
from types import SimpleNamespace
from typing import Any

import pytest

from tests.demo_ops import drill
from tests.demo_ops.breakages import Breakage
from tests.runbook import sections


def test_each_fault_has_a_section_of_its_own() -> None:
    named = [fault.alert for fault in drill.FAULTS]

    assert len(set(named)) == 6
    assert set(named) <= sections().keys()


@pytest.mark.parametrize("name", ["FarmNobodyConsumes", "FarmWorkerLost"])
def test_a_round_ends_with_a_right_name(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    done: list[str] = []
    fault = Breakage("it broke", "FarmNobodyConsumes", lambda _: done.append("broken"), lambda _: done.append("mended"))
    well: Any = SimpleNamespace(query=lambda _expression: [{}])
    farm: Any = None
    monkeypatch.setattr("sys.stdin", io.StringIO(f"FarmNothing\nFarmApiDown\n{name}\n"))

    assert drill._round(fault, farm, well) < drill.LIMIT_SECONDS

    assert done == ["broken", "mended"]
    _question, none, wrong, right = capsys.readouterr().out.splitlines()
    assert ("no such section" in none, wrong, "it broke" in right) == (True, "No.", True)
