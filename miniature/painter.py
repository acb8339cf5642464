"""The miniature's transformer and its two readers of prompts, trained together to turn noise into drawn pictures."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from torch import nn
from torch.nn import functional

from miniature.autoencoder import CHANNELS
from miniature.dataset import Batch, Dataset
from miniature.feed import Machine
from miniature.recipe import Form, Recipe, Sizes
from miniature.tokenizer import CLIP_TOKENS, T5_TOKENS, tokenizer
from miniature.training import Training, restored
from workers.pipelines.engine import CLIPTextConfig, CLIPTextModel, FluxTransformer2DModel, T5Config, T5EncoderModel
from workers.pipelines.kontext import mosaic
from workers.pipelines.latents import Size, positions


class Painter(nn.Module):
    """Prompts and noisy latents in, velocities out: what FluxPipeline does with the same parts in one step."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.tokenizer, self.tokenizer_2 = tokenizer(CLIP_TOKENS), tokenizer(T5_TOKENS)
        self.text_encoder = _clip(len(self.tokenizer), recipe.clip_width)
        self.text_encoder_2 = _t5(len(self.tokenizer_2), recipe.t5_width)
        self.transformer = _transformer(recipe)

    def forward(
        self,
        prompts: list[str],
        tokens: torch.Tensor,
        places: torch.Tensor,
        noise_level: torch.Tensor,
        guidance: torch.Tensor,
    ) -> torch.Tensor:
        """Velocities [n, tokens, 64] of `tokens` at `places` [tokens, 3]; `noise_level` and `guidance` are [n]."""
        words = self.text_encoder_2(self._ids(self.tokenizer_2, prompts, tokens.device))[0]
        pooled = self.text_encoder(self._ids(self.tokenizer, prompts, tokens.device)).pooler_output
        velocity: torch.Tensor = self.transformer(
            hidden_states=tokens,
            timestep=noise_level,
            guidance=guidance,
            pooled_projections=pooled,
            encoder_hidden_states=words,
            txt_ids=torch.zeros(words.shape[1], 3, device=tokens.device),
            img_ids=places,
            return_dict=False,
        )[0]
        return velocity

    @staticmethod
    def _ids(tokenizer: object, prompts: list[str], device: torch.device) -> torch.Tensor:
        asked = {"padding": "max_length", "truncation": True, "return_tensors": "pt"}
        ids: torch.Tensor = tokenizer(prompts, **asked)["input_ids"]  # type: ignore[operator]
        return ids.to(device)


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


def _transformer(recipe: Recipe) -> FluxTransformer2DModel:
    quarter = recipe.head_width // 4
    across = (recipe.head_width - quarter) // 2
    transformer = FluxTransformer2DModel(
        in_channels=4 * CHANNELS,
        num_layers=recipe.layers,
        num_single_layers=recipe.single_layers,
        attention_head_dim=recipe.head_width,
        num_attention_heads=recipe.heads,
        joint_attention_dim=recipe.t5_width,
        pooled_projection_dim=recipe.clip_width,
        guidance_embeds=True,
        # Halves of each are turned together: even numbers.
        axes_dims_rope=(recipe.head_width - 2 * across, across, across),
    )
    # Blocks begin as if they were not there: their gates are shut (Peebles and Xie, arXiv 2212.09748, "adaLN-Zero").
    for name, parameter in transformer.named_parameters():
        if ("norm" in name and ".linear." in name) or name.startswith("proj_out"):
            nn.init.zeros_(parameter)
    return transformer


def train(folder: Path, dataset: Dataset, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for so long at most; says whether the plan is fulfilled."""
    torch.manual_seed(0)
    painter = Painter(recipe).to(machine.device)

    def losses(step: int) -> Mapping[str, torch.Tensor]:
        random = Random(step)
        size = random.choice(_sizes_at(step / recipe.painter.steps, recipe, random))
        batch = dataset.batch(random, batch_size(recipe, [size]), Form(size))
        return {"velocity": flow_loss(painter, batch)}

    return Training(folder, painter, recipe.painter).run(losses, minutes)


def batch_size(recipe: Recipe, sizes: Iterable[tuple[int, int]]) -> int:
    """How many examples of pictures of these sizes make a step."""
    pictures = sum(width * height // recipe.grid**2 for width, height in sizes)
    return max(2, recipe.tokens // (pictures + T5_TOKENS))


def trained(folder: Path, recipe: Recipe) -> Painter:
    """The painter or the editor of a training's folder, ready to compute."""
    return restored(Painter(recipe), folder)


def _sizes_at(share: float, recipe: Recipe, random: Random) -> Sizes:
    """Small pictures at first; then a share of larger ones, whose every place has to be known."""
    drawn = random.random()
    if share < 0.6 or drawn < 0.4:
        return recipe.small
    return recipe.middle if drawn < 0.75 else recipe.full


def flow_loss(painter: Painter, batch: Batch) -> torch.Tensor:
    """How far the velocities are off (Liu and others, arXiv 2209.03003)."""
    device = next(painter.parameters()).device
    latents, guidance = batch.latents.to(device), batch.guidance.to(device)
    levels = noise_levels(len(latents), device)
    pure = torch.randn_like(latents)
    tokens = packed(torch.lerp(latents, pure, levels[:, None, None, None]))
    read = [tokens, *(packed(reference.to(device)) for reference in batch.references)]
    where = torch.cat([places(latents), *context_places(batch.references)]).to(latents)
    found = painter(batch.prompts, torch.cat(read, dim=1), where, levels, guidance)[:, : tokens.shape[1]]
    return functional.mse_loss(found, packed(pure - latents))


def context_places(references: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Where the references' tokens are, as the farm's Kontext lays them out."""
    sizes = [Size(latents.shape[2], latents.shape[3], grid=2) for latents in references]
    return [mosaic(sizes)] if sizes else []


def noise_levels(number: int, device: torch.device) -> torch.Tensor:
    """From 0 to 1 [number], logit-normal (Esser and others, arXiv 2403.03206), more of them where words decide."""
    return torch.sigmoid(0.8 + 1.2 * torch.randn(number, device=device))


def packed(latents: torch.Tensor) -> torch.Tensor:
    """[n, channels, rows, columns] to tokens [n, rows x columns / 4, 4 x channels], in FLUX.1's order."""
    n, channels, rows, columns = latents.shape
    patches = latents.reshape(n, channels, rows // 2, 2, columns // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, rows * columns // 4, 4 * channels)


def places(latents: torch.Tensor) -> torch.Tensor:
    """Plane, row and column of each token of these latents [tokens, 3]."""
    return positions(Size(latents.shape[2], latents.shape[3], grid=2))
