"""Training of the miniature of Kontext: the denoiser, fine-tuned to edit input images."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from random import Random

import torch

from miniature.batches import Machine
from miniature.dataset import Dataset
from miniature.denoiser import DenoiserTraining, batch_size
from miniature.recipe import Form, Recipe
from miniature.training import Training, restored

#: Share of steps in which it renders from words alone, as before, and of steps with images at full size.
_WORDS_ALONE, _FULL = 0.2, 0.35


def train(run: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for at most `minutes`, from the run's denoiser. Returns True if the plan is finished."""
    student = restored(DenoiserTraining(recipe), run / "denoiser").requires_grad_(True).train().to(machine.device)
    # Prompts are read as the denoiser reads them: both share the encoders.
    student.denoiser.text_encoders.requires_grad_(False)
    dataset, plan = Dataset(run / "dataset"), recipe.editor

    def losses(step: int) -> Mapping[str, torch.Tensor]:
        random = Random(step)
        form = random.choice(_forms(recipe, random))
        batch = dataset.batch(random, batch_size(recipe, recipe.tokens, [form.size, *form.references]), form)
        return student.losses(batch, step / plan.steps)

    return Training(run / "editor", student, plan).run(losses, minutes)


def _forms(recipe: Recipe, random: Random) -> tuple[Form, ...]:
    drawn = random.random()
    if drawn < _WORDS_ALONE:
        return tuple(Form(size) for size in (*recipe.small, *recipe.full))
    return recipe.full_edits if drawn < _WORDS_ALONE + _FULL else recipe.small_edits
