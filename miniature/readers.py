"""The miniature's two readers of prompts, taught to understand before anything is rendered.

A denoiser that begins with readers who tell a star from a heart learns to render either in a fraction of the steps.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from random import Random

import torch
from torch import nn
from torch.nn import functional

from miniature.feed import Machine, learn
from miniature.recipe import Recipe
from miniature.scene import COLOURS, GROUNDS, MOST, PLACES, RELATIONS, SHAPES, SIZES, STYLES, Group, Scene, random_scene
from miniature.tokenizer import CLIP_TOKENS, T5_TOKENS, tokenizer
from miniature.training import Training, restored
from miniature.wording import describe
from workers.pipelines.engine import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel

#: Answers to each question about a group, of which a scene has two at most, and about the rest of the scene.
_OF_GROUP = (len(SHAPES), len(COLOURS), MOST, len(SIZES), len(STYLES))
_OF_SCENE = (len(GROUNDS), 2, len(PLACES), len(RELATIONS) + 1)
_ANSWERS = (*_OF_GROUP, *_OF_GROUP, *_OF_SCENE)
#: The answer about a group that is not there: what is said of it does not count.
_NONE = -100


class Readers(nn.Module):
    """Prompts in; out come CLIP's one vector [n, clip_width] and T5's of each token [n, T5_TOKENS, t5_width]."""

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
        asked = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids: torch.Tensor = tokenizer(list(prompts), **asked)["input_ids"]
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


class Pupil(nn.Module):
    """Readers that answer each question, each from what it read: CLIP from its vector, T5 from the mean of its own."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.readers = Readers(recipe)
        self.from_clip = nn.Linear(recipe.clip_width, sum(_ANSWERS))
        self.from_t5 = nn.Linear(recipe.t5_width, sum(_ANSWERS))

    def losses(self, prompts: Sequence[str], right: torch.Tensor) -> Mapping[str, torch.Tensor]:
        """How little of what is `right` [n, questions] each says."""
        pooled, words = self.readers(prompts)
        return {
            "clip": _off(self.from_clip(pooled), right),
            "t5": _off(self.from_t5(words.mean(1)), right),
        }


def _off(said: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Of all questions; one that nobody could be asked is no mistake."""
    asked = zip(torch.split(said, list(_ANSWERS), dim=1), right.unbind(1), strict=True)
    mistakes = [functional.cross_entropy(one, answer, ignore_index=_NONE, reduction="sum") for one, answer in asked]
    return (torch.stack(mistakes) / (right != _NONE).sum(0).clamp(min=1)).sum()


def train(folder: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for so long at most; says whether the plan is fulfilled."""
    torch.manual_seed(0)
    pupil = Pupil(recipe).to(machine.device)

    def losses(batch: tuple[list[str], torch.Tensor]) -> Mapping[str, torch.Tensor]:
        prompts, right = batch
        return pupil.losses(prompts, right.to(machine.device))

    return learn(Training(folder, pupil, recipe.readers), partial(_batch, recipe.sentences), losses, machine, minutes)


def trained(folder: Path, recipe: Recipe) -> Readers:
    """The readers of a training's folder."""
    return restored(Pupil(recipe), folder).readers


def _batch(number: int, step: int) -> tuple[list[str], torch.Tensor]:
    """So many descriptions of scenes, and the right answers about them."""
    random = Random(step)
    scenes = [random_scene(random) for _ in range(number)]
    return [describe(scene, random) for scene in scenes], torch.tensor([answers(scene) for scene in scenes])


def answers(scene: Scene) -> list[int]:
    """The right answer to each question, as its number."""
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
