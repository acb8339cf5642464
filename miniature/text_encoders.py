"""Pretraining of the miniature's two text encoders.

A denoiser whose text encoders already distinguish a star from a heart learns to render them in a fraction of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import torch
from torch import nn
from torch.nn import functional

from miniature.batches import Machine, train_on_batches
from miniature.recipe import Recipe
from miniature.scene import (
    COLOURS,
    GROUNDS,
    MAX_COUNT,
    PLACES,
    RELATIONS,
    SHAPES,
    SIZES,
    STYLES,
    Group,
    Scene,
    random_scene,
)
from miniature.tokenizer import CLIP_TOKENS, T5_TOKENS, tokenizer
from miniature.training import Training, restored
from miniature.wording import describe
from workers.pipelines.engine import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

#: Classes of each question about a group, of which a scene has at most two, and about the rest of the scene.
_OF_GROUP = (len(SHAPES), len(COLOURS), MAX_COUNT, len(SIZES), len(STYLES))
_OF_SCENE = (len(GROUNDS), 2, len(PLACES), len(RELATIONS) + 1)
_ANSWERS = (*_OF_GROUP, *_OF_GROUP, *_OF_SCENE)
#: The label of a missing group, which the loss ignores.
_NONE = -100


class TextEncoders(nn.Module):
    """Both encoders: from prompts to CLIP's vector [n, clip_width] and T5's of each token [n, T5_TOKENS, t5_width]."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.tokenizer, self.tokenizer_2 = tokenizer(CLIP_TOKENS), tokenizer(T5_TOKENS)
        self.text_encoder = _clip(len(self.tokenizer), recipe.clip_width)
        self.text_encoder_2 = _t5(len(self.tokenizer_2), recipe.t5_width)

    def forward(self, prompts: Sequence[str]) -> tuple[torch.Tensor, torch.Tensor]:
        pooled = self.text_encoder(self._ids(self.tokenizer, prompts)).pooler_output
        words = self.text_encoder_2(self._ids(self.tokenizer_2, prompts))[0]
        return pooled, words

    def _ids(self, tokenizer: CLIPTokenizer, prompts: Sequence[str]) -> torch.Tensor:
        options = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids: torch.Tensor = tokenizer(list(prompts), **options)["input_ids"]
        return ids.to(self.text_encoder.device)


def _clip(words: int, width: int) -> CLIPTextModel:
    config = CLIPTextConfig(
        vocab_size=words,
        hidden_size=width,
        intermediate_size=4 * width,
        projection_dim=width,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=CLIP_TOKENS,
        # The last two words of the vocabulary.
        bos_token_id=words - 2,
        eos_token_id=words - 1,
        pad_token_id=words - 1,
    )
    return CLIPTextModel(config)


def _t5(words: int, width: int) -> T5EncoderModel:
    config = T5Config(
        vocab_size=words,
        d_model=width,
        d_kv=width // 4,
        d_ff=2 * width,
        num_layers=2,
        num_heads=4,
        feed_forward_proj="gated-gelu",
        tie_word_embeddings=False,
        dropout_rate=0.0,
    )
    return T5EncoderModel(config)


class TextEncoderTraining(nn.Module):
    """Text encoders with classification heads: CLIP's on its vector, T5's on the mean of its vectors."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.text_encoders = TextEncoders(recipe)
        self.from_clip = nn.Linear(recipe.clip_width, sum(_ANSWERS))
        self.from_t5 = nn.Linear(recipe.t5_width, sum(_ANSWERS))

    def losses(self, prompts: Sequence[str], right: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """Return the loss of each encoder against the labels `right` [n, questions]."""
        pooled, words = self.text_encoders(prompts)
        return {
            "clip": _loss(self.from_clip(pooled), right),
            "t5": _loss(self.from_t5(words.mean(1)), right),
        }


def _loss(predicted: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the mean loss over all questions; missing labels are ignored."""
    pairs = zip(torch.split(predicted, list(_ANSWERS), dim=1), right.unbind(1), strict=True)
    mistakes = [functional.cross_entropy(one, answer, ignore_index=_NONE, reduction="sum") for one, answer in pairs]
    return (torch.stack(mistakes) / (right != _NONE).sum(0).clamp(min=1)).sum()


def train(folder: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for at most `minutes`. Returns True if the plan is finished."""
    torch.manual_seed(0)
    pupil = TextEncoderTraining(recipe).to(machine.device)

    def losses(batch: tuple[list[str], torch.Tensor]) -> Mapping[str, torch.Tensor]:
        prompts, right = batch
        return pupil.losses(prompts, right.to(machine.device))

    return train_on_batches(
        Training(folder, pupil, recipe.text_encoders), partial(_batch, recipe.sentences), losses, machine, minutes
    )


def trained(folder: Path, recipe: Recipe) -> TextEncoders:
    """Load the text encoders of a run."""
    return restored(TextEncoderTraining(recipe), folder).text_encoders


def _batch(number: int, step: int) -> tuple[list[str], torch.Tensor]:
    """Return descriptions of random scenes, and their labels."""
    random = Random(step)
    scenes = [random_scene(random) for _ in range(number)]
    return [describe(scene, random) for scene in scenes], torch.tensor([answers(scene) for scene in scenes])


def answers(scene: Scene) -> list[int]:
    """Return the label of each question, as its number."""
    first, second = (*scene.groups, None)[:2]
    rest = [
        GROUNDS.index(scene.ground),
        int(scene.night),
        tuple(PLACES).index(scene.place),
        RELATIONS.index(scene.relation) if scene.relation else len(RELATIONS),
    ]
    return [*_about(first), *_about(second), *rest]


def _about(group: Group | None) -> list[int]:
    if group is None:
        return [_NONE] * len(_OF_GROUP)
    return [
        SHAPES.index(group.shape),
        COLOURS.index(group.colour),
        group.count - 1,
        SIZES.index(group.size),
        STYLES.index(group.style),
    ]
