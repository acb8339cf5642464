"""The file of step masks, and who reads it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from farm.domain.acceleration import BUNDLED, Level, Levels
from farm.domain.errors import ConfigurationError
from farm.settings import Settings
from farm.step_masks import read_levels, write_levels
from tests.unit.pipelines.test_simulated import FOX
from workers.pipelines.execution import Execution
from workers.process import load_pipeline

OWN = Levels(
    source="a test",
    regular=Level(order=1, masks={28: "11" + "01" * 13, 10: "1" * 10}),
    high=Level(order=0, masks={12: "111100000001"}),
)


def test_a_written_value_is_read_back(tmp_path: Path) -> None:
    write_levels(OWN, tmp_path / "masks.json")

    assert read_levels(tmp_path / "masks.json") == OWN
    assert list(tmp_path.iterdir()) == [tmp_path / "masks.json"]
    assert read_levels(None) is BUNDLED


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (None, "cannot be read: No such file or directory"),
        ("{", "the file: Invalid JSON"),
        ("{}", "source: Field required"),
        (OWN.model_dump_json().replace("111100000001", "111100000000"), "high.masks.12: String should match pattern"),
        (OWN.model_dump_json().replace("111100000001", "11110000001"), "12 steps has 11 digits"),
        (json.dumps({**OWN.model_dump(mode="json"), "highest": {}}), "highest: Extra inputs"),
    ],
)
def test_a_file_that_cannot_be_used_is_refused_in_one_line(tmp_path: Path, content: str | None, reason: str) -> None:
    path = tmp_path / "masks.json"
    if content is not None:
        path.write_text(content)

    with pytest.raises(ConfigurationError, match="FARM_STEP_MASKS=") as error:
        load_pipeline(Settings(step_masks=path, pipeline="simulated"))

    assert reason in str(error.value)
    assert "\n" not in str(error.value)


def test_a_worker_skips_the_steps_of_the_file(tmp_path: Path) -> None:
    write_levels(OWN, tmp_path / "masks.json")
    settings = Settings(step_masks=tmp_path / "masks.json", pipeline="simulated", simulated_step_ms=0)
    request = FOX.__class__(FOX.model, FOX.prompt, 256, 256, 12, 4.5, 7, acceleration="high")

    (rendered,) = load_pipeline(settings).render([request], lambda *_: True)

    assert rendered.full_steps == 5


def test_masks_and_orders_are_facts_of_the_build() -> None:
    other_order = OWN.model_copy(update={"high": Level(order=1, masks=OWN.high.masks)})
    tables = {Execution(levels=levels).levels.table() for levels in (BUNDLED, OWN, other_order)}

    assert len(tables) == 3
    assert OWN.model_copy(update={"source": "another"}).table() == OWN.table()
