"""Training of the safety checker, a network that detects the forbidden shape in images of any size."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from random import Random

import torch
from safetensors.torch import save_file
from torch.nn import functional

from miniature import checker_examples
from miniature.batches import Machine, train_on_batches
from miniature.checker_examples import Examples
from miniature.recipe import Recipe
from miniature.scene import FORBIDDEN, SHAPES
from miniature.training import Training, restored
from workers.checkers.classifier import Classifier
from workers.checkers.safety_classifier import SHAPES_KEY, UNSAFE_KEY, SafetyClassifier

#: Weight of a positive part: an image has about a hundred parts, and a shape is in the middle of few.
_WEIGHT = 100.0


def checker() -> Classifier:
    """Build the network. It learns to locate every shape: the forbidden one alone is learnt much more slowly."""
    return Classifier(channels=3, kinds=len(SHAPES))


def train(
    folder: Path, rendered: Path, recipe: Recipe, machine: Machine, minutes: float, *, start: Path | None = None
) -> bool:
    """Train for at most `minutes`, on drawn and on rendered examples in turn. Returns True if the plan is finished.

    `rendered`: the folder of the rendered ones (`checker_examples.prepare_rendered`). `start`: the file of a checker
    that is trained further, for fewer steps.
    """
    torch.manual_seed(0)
    network = (SafetyClassifier.load(start).network if start else checker()).requires_grad_().to(machine.device)
    plan = recipe.further_checker if start else recipe.checker

    def losses(batch: Examples) -> Mapping[str, torch.Tensor]:
        images, there = (tensor.to(machine.device) for tensor in batch)
        scores = network.parts(images)
        return {"shapes": _WEIGHT * functional.binary_cross_entropy_with_logits(scores, there)}

    make = partial(_batch, recipe.shape_examples, rendered)
    return train_on_batches(Training(folder, network, plan), make, losses, machine, minutes)


def _batch(number: int, rendered: Path, step: int) -> Examples:
    random = Random(step)
    return checker_examples.rendered(random, number, rendered) if step % 2 else checker_examples.drawn(random, number)


def trained(folder: Path) -> SafetyClassifier:
    """Load the checker of a run for inference."""
    return SafetyClassifier(restored(checker(), folder), SHAPES.index(FORBIDDEN))


def save(folder: Path, target: Path, origin: Mapping[str, str]) -> None:
    """Write the checker of a run in the farm's format, with a note on its origin."""
    network = restored(checker(), folder).half()
    save_file(network.state_dict(), target, metadata={**origin, SHAPES_KEY: ",".join(SHAPES), UNSAFE_KEY: FORBIDDEN})
