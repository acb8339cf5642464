"""The checker `vit`, with a planted classifier: the redder an image, the more probable its second label."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from farm.domain.catalogue import SAFETY_THRESHOLDS
from farm.safety_checkers import checker_folder
from tests.checker_folders import WEIGHTS, red_classifier, set_tensors
from workers.checkers.vit import ImageClassifier

pytestmark = pytest.mark.slow


def classifier(folder: Path, *labels: str) -> ImageClassifier:
    return ImageClassifier(checker_folder("vit", folder, frozenset(labels)))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return red_classifier(tmp_path / "classifier")


def plain(colour: str | tuple[int, int, int]) -> Image.Image:
    return Image.new("RGB", (300, 200), colour)


def test_the_probability_of_the_unsafe_label_decides(folder: Path) -> None:
    checker = classifier(folder)

    assert [checker.check(plain("red"), tolerance) for tolerance in SAFETY_THRESHOLDS] == [True] * 6
    assert [checker.check(plain("blue"), tolerance) for tolerance in SAFETY_THRESHOLDS] == [False] * 6
    assert checker.unsafe_probability(plain("green")) == pytest.approx(0.5)


def test_each_tolerance_lets_pass_what_the_stricter_ones_do_not(folder: Path) -> None:
    checker = classifier(folder)
    faded = [plain((100 + shift, 100, 100 - shift)) for shift in range(-60, 61, 2)]

    flagged = [tuple(t for t in SAFETY_THRESHOLDS if checker.check(image, t)) for image in faded]

    assert sorted(set(flagged)) == [tuple(range(1, last + 1)) for last in range(7)]
    assert flagged == sorted(flagged)


def test_the_probabilities_of_several_unsafe_labels_are_added(tmp_path: Path) -> None:
    folder = red_classifier(tmp_path, "neutral", "porn", "Hentai", "drawing")
    checker, porn, hentai = (classifier(folder, *labels) for labels in ((), ("porn",), ("HENTAI",)))

    image = plain((110, 100, 100))

    parts = [porn.unsafe_probability(image), hentai.unsafe_probability(image)]
    assert checker.unsafe_probability(image) == pytest.approx(sum(parts))
    assert 0 < parts[1] < parts[0]


def test_labels_that_do_not_exclude_each_other_have_probabilities_of_their_own(tmp_path: Path) -> None:
    folder = red_classifier(tmp_path, "medium", "high", "people")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"problem_type": "multi_label_classification"}))

    checker = classifier(folder)

    assert classifier(folder, "medium").unsafe_probability(plain("blue")) == pytest.approx(0.5)
    assert checker.unsafe_probability(plain("red")) == 1


def test_a_classifier_that_computes_no_number_raises(folder: Path) -> None:
    set_tensors(folder, **{"classifier.bias": torch.tensor([float("nan"), 0.0])})

    with pytest.raises(ArithmeticError, match="not finite"):
        classifier(folder).check(plain("blue"), 6)


def test_weights_of_half_precision_are_loaded(folder: Path) -> None:
    exact = classifier(folder).unsafe_probability(plain("purple"))
    set_tensors(folder, **{name: tensor.half() for name, tensor in load_file(folder / WEIGHTS).items()})

    assert classifier(folder).unsafe_probability(plain("purple")) == pytest.approx(exact, abs=0.01)
