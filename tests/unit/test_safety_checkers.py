"""Folders of safety checkers that a worker refuses in one line, and the doctor with the same words."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from farm.doctor import safety
from farm.doctor.examination import within
from farm.doctor.finding import Mark
from farm.domain.errors import ConfigurationError
from farm.safety_checkers import checker_folder
from farm.settings import Settings
from tests.checker_folders import WEIGHTS, concept_checker, red_classifier
from workers.safety import checker_for

REAL = "flux-1-dev + srpo"


@pytest.fixture
def vit(tmp_path: Path) -> Path:
    return red_classifier(tmp_path / "vit")


@pytest.fixture
def clip(tmp_path: Path) -> Path:
    return concept_checker(tmp_path / "clip")


def refused(settings: Settings) -> str:
    """Return what a worker refuses these settings with; the doctor must say the same."""
    with pytest.raises(ConfigurationError) as caught:
        checker_for(settings, REAL)
    message = str(caught.value)
    [finding] = within("safety", lambda: safety.safety(settings))
    assert finding.mark is Mark.WRONG
    assert message == f"{finding.text}; {finding.remedy}"
    assert "\n" not in message
    return message


def with_folder(kind: Any, folder: Path | None, *labels: str) -> Settings:
    return Settings(safety=kind, safety_dir=folder, safety_labels=frozenset(labels))


@pytest.mark.parametrize("kind", ["vit", "clip"])
def test_a_checker_needs_its_folder(kind: str) -> None:
    assert refused(with_folder(kind, None)).startswith(f"FARM_SAFETY={kind} needs FARM_SAFETY_DIR; set it to")


@pytest.mark.parametrize("kind", ["vit", "clip"])
@pytest.mark.parametrize("name", ["config.json", "preprocessor_config.json", WEIGHTS])
def test_a_missing_file_is_named(vit: Path, clip: Path, kind: str, name: str) -> None:
    folder = {"vit": vit, "clip": clip}[kind]
    (folder / name).unlink()

    assert f"{folder} lacks {name}; set it to the folder of" in refused(with_folder(kind, folder))


def test_pickled_weights_are_not_loaded(vit: Path) -> None:
    (vit / WEIGHTS).rename(vit / "pytorch_model.bin")

    assert "such files can run code: get them as safetensors" in refused(with_folder("vit", vit))


def test_a_missing_shard_is_named(vit: Path) -> None:
    shards = {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}
    (vit / WEIGHTS).rename(vit / shards["a"])
    (vit / "model.safetensors.index.json").write_text(json.dumps({"weight_map": shards}))

    assert f"lacks {shards['b']}; " in refused(with_folder("vit", vit))


def test_the_folder_of_the_other_checker_is_recognised(vit: Path, clip: Path) -> None:
    assert refused(with_folder("vit", clip)).endswith("; try FARM_SAFETY=clip")
    assert refused(with_folder("clip", vit)).endswith("; try FARM_SAFETY=vit")


def test_a_classifier_without_an_unsafe_label_is_refused(tmp_path: Path) -> None:
    message = refused(with_folder("vit", red_classifier(tmp_path, "cat", "dog")))

    assert "has none of the labels nsfw, unsafe, " in message
    assert message.endswith("; set FARM_SAFETY_LABELS, of: cat, dog")


def test_a_label_that_the_classifier_lacks_is_refused(vit: Path) -> None:
    message = refused(with_folder("vit", vit, "nsfw", "gore"))

    assert message == f"FARM_SAFETY_LABELS names gore; the labels of FARM_SAFETY_DIR={vit} are normal, nsfw"


def test_a_checker_that_would_flag_everything_is_refused(vit: Path) -> None:
    assert refused(with_folder("vit", vit, "NSFW", "Normal")).startswith("Every label of FARM_SAFETY_DIR=")


def not_json(path: Path) -> None:
    path.write_text("{")


def no_object(path: Path) -> None:
    path.write_text("[1]")


@pytest.mark.parametrize("damage", [not_json, no_object])
def test_a_damaged_configuration_is_named(vit: Path, damage: Callable[[Path], None]) -> None:
    damage(vit / "config.json")

    message = refused(with_folder("vit", vit))
    assert message.startswith(f"{vit / 'config.json'} cannot be read: ")
    assert message.endswith("; download it again")


def test_unsafe_labels_are_found_by_name_whatever_their_case(tmp_path: Path) -> None:
    folder = red_classifier(tmp_path, "Neutral", "Porn", "low", "HIGH")

    assert checker_folder("vit", folder, frozenset()).unsafe_labels() == {"high": 3, "porn": 1}
    assert checker_folder("vit", folder, frozenset({"LOW"})).unsafe_labels() == {"low": 2}


def as_timm(folder: Path) -> None:
    """Make the folder one of timm's: no description of the input, and labels in another place."""
    (folder / "preprocessor_config.json").unlink()
    config = {"model_type": "timm_wrapper", "label_names": ["neutral", "low", "medium", "high"]}
    (folder / "config.json").write_text(json.dumps(config))


def test_a_classifier_of_timm_needs_timm(vit: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    as_timm(vit)

    assert refused(with_folder("vit", vit)).endswith("needs the package timm; run: .venv/bin/pip install -e '.[timm]'")
    monkeypatch.setattr("farm.safety_checkers.find_spec", lambda _name: "found")
    assert checker_folder("vit", vit, frozenset()).unsafe_labels() == {"high": 3, "medium": 2}


def test_a_folder_without_its_checker_is_refused(vit: Path) -> None:
    settings = with_folder(None, vit)

    with pytest.raises(ConfigurationError, match="FARM_SAFETY_DIR needs FARM_SAFETY; set it to vit or clip"):
        checker_for(settings, "miniature")
    assert safety.safety(settings).mark is Mark.WRONG


def test_the_doctor_says_what_is_loaded(vit: Path, clip: Path) -> None:
    assert safety.safety(with_folder("vit", vit)).text.endswith("; unsafe: nsfw")
    found = safety.safety(with_folder("clip", clip))
    assert (found.mark, found.text.startswith(f"clip: {clip}, ")) == (Mark.GOOD, True)


def test_the_doctor_sees_half_a_file(vit: Path) -> None:
    (vit / WEIGHTS).write_bytes((vit / WEIGHTS).read_bytes()[:-100])

    found = safety.safety(with_folder("vit", vit))

    assert found.mark is Mark.WRONG
    assert "bytes instead of" in found.text
