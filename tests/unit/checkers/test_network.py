"""Loading of a checker's network, whole or not at all, and where it runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any

import pytest
import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from PIL import Image
from safetensors.torch import load_file, save_file
from transformers import AutoModelForImageClassification

from farm.domain.errors import ConfigurationError
from tests.checker_folders import WEIGHTS, concept_checker, red_classifier
from workers.checkers import network
from workers.checkers.network import CARD_RESERVE, CheckerNetwork, load_model, load_processor

IMAGE = Image.new("RGB", (64, 64), "red")
CARD = torch.device("cuda")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return red_classifier(tmp_path / "classifier")


def without(folder: Path, tensor: str) -> None:
    tensors = load_file(folder / WEIGHTS)
    del tensors[tensor]
    save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})


def test_no_tensor_is_made_up_where_the_file_lacks_one(folder: Path, tmp_path: Path) -> None:
    without(folder, "classifier.weight")
    clip = concept_checker(tmp_path / "clip")
    without(clip, "concept_embeds_weights")

    with pytest.raises(ConfigurationError, match=r"has weights without classifier\.weight; download it again"):
        load_model(AutoModelForImageClassification, folder)
    with pytest.raises(ConfigurationError, match="has weights without concept_embeds_weights; download it again"):
        load_model(StableDiffusionSafetyChecker, clip)


@pytest.mark.parametrize(
    "damage",
    [
        lambda path: path.write_bytes(path.read_bytes()[:-10]),
        lambda path: path.write_bytes(b"version https://git-lfs.github.com/spec/v1"),
        lambda path: save_file(
            load_file(path) | {"classifier.weight": torch.zeros(3, 4)}, path, metadata={"format": "pt"}
        ),
    ],
)
def test_damaged_weights_are_one_line(folder: Path, damage: Callable[[Path], object]) -> None:
    damage(folder / WEIGHTS)

    with pytest.raises(ConfigurationError, match="cannot be loaded: ") as caught:
        load_model(AutoModelForImageClassification, folder)
    assert "\n" not in str(caught.value)


def test_a_folder_with_code_of_its_own_is_not_run(folder: Path) -> None:
    code = {"AutoConfig": "own.Config", "AutoModelForImageClassification": "own.Model"}
    config = json.loads((folder / "config.json").read_text()) | {"model_type": "own", "auto_map": code}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "own.py").write_text(f"open({str(folder / 'ran')!r}, 'w')")

    with pytest.raises(ConfigurationError, match="trust_remote_code"):
        load_model(AutoModelForImageClassification, folder)
    assert not (folder / "ran").exists()


def loaded(folder: Path, outputs: Callable[[torch.Tensor], torch.Tensor] | None = None) -> CheckerNetwork:
    model: Any = load_model(AutoModelForImageClassification, folder)
    return CheckerNetwork(model, load_processor(folder), outputs or (lambda pixels: model(pixels).logits))


@pytest.mark.parametrize(("free", "moves"), [(CARD_RESERVE + 10**6, True), (CARD_RESERVE, False), (0, False)])
def test_a_card_is_used_where_renders_still_have_room(
    folder: Path, monkeypatch: pytest.MonkeyPatch, free: int, moves: bool
) -> None:
    checker = loaded(folder)
    moved: list[torch.device] = []
    monkeypatch.setattr(network, "_free_bytes", lambda _device: free)
    monkeypatch.setattr(checker, "_move", moved.append)

    checker.use_card(CARD)
    checker.use_card(torch.device("cpu"))

    assert moved == [CARD] * moves


def test_a_card_without_memory_is_left_for_the_cpu(folder: Path) -> None:
    calls: list[int] = []

    def outputs(pixels: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        if len(calls) == 1:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return pixels.mean(dim=(2, 3))

    checker = loaded(folder, outputs)

    assert checker(IMAGE).tolist() == pytest.approx([1, -1, -1])
    assert len(calls) == 2


def test_one_image_is_checked_at_a_time(folder: Path) -> None:
    running, overlapped = Event(), Event()

    def outputs(pixels: torch.Tensor) -> torch.Tensor:
        if running.is_set():
            overlapped.set()
        running.set()
        overlapped.wait(0.1)
        running.clear()
        return pixels.mean(dim=(2, 3))

    checker = loaded(folder, outputs)
    with ThreadPoolExecutor(4) as threads:
        list(threads.map(checker, [IMAGE] * 4))

    assert not overlapped.is_set()
