"""Training of the miniature's transformer, together with its text encoders."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from random import Random

import torch
from torch import nn
from torch.nn import functional

from miniature import text_encoders
from miniature.areas import ANSWERS
from miniature.autoencoder import CHANNELS
from miniature.batches import Machine
from miniature.dataset import Batch, Dataset
from miniature.recipe import Form, Recipe, Sizes
from miniature.text_encoders import TextEncoders
from miniature.tokenizer import T5_TOKENS
from miniature.training import Training, restored
from workers.pipelines.engine import FluxTransformer2DModel
from workers.pipelines.kontext import tiled_positions
from workers.pipelines.latents import Size, positions


class Denoiser(nn.Module):
    """Text encoders and transformer: from prompts and noisy latents to velocities, as one step of FluxPipeline."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.text_encoders = TextEncoders(recipe)
        self.transformer = _transformer(recipe)

    def forward(
        self,
        prompts: list[str],
        tokens: torch.Tensor,
        places: torch.Tensor,
        noise_level: torch.Tensor,
        guidance: torch.Tensor,
    ) -> torch.Tensor:
        """Predict the velocities [n, tokens, 64] of `tokens` at `places` [tokens, 3]; the other two are [n]."""
        pooled, words = self.text_encoders(prompts)
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
    # Blocks begin as the identity: their gates are zero (Peebles and Xie, arXiv 2212.09748, "adaLN-Zero").
    for name, parameter in transformer.named_parameters():
        if ("norm" in name and ".linear." in name) or name.startswith("proj_out"):
            nn.init.zeros_(parameter)
    return transformer


class DenoiserTraining(nn.Module):
    """A denoiser with an auxiliary loss: its first single block predicts what each part of the image will show.

    What a step of the flow says about a word is faint, and drowned in noise; an answer about every token is not. To ask
    within is Yu and others' (arXiv 2410.06940); they ask for what another network sees, and here the scene is known.
    """

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.denoiser = Denoiser(recipe)
        self.answer = nn.Linear(recipe.heads * recipe.head_width, sum(ANSWERS))
        self._within = torch.empty(0)
        self.denoiser.transformer.single_transformer_blocks[0].register_forward_hook(self._look)

    def _look(self, _block: nn.Module, _given: object, states: tuple[torch.Tensor, torch.Tensor]) -> None:
        self._within = states[1]

    def losses(self, batch: Batch, done: float) -> Mapping[str, torch.Tensor]:
        """Return the losses. The auxiliary ones fade as the share `done` of the training grows (0 to 1)."""
        velocity = flow_loss(self.denoiser, batch)
        right = batch.areas.to(velocity.device)
        predicted = self.answer(self._within[:, : right.shape[1]])
        shapes, colours = map(_loss, *(torch.split(part, list(ANSWERS), dim=-1) for part in (predicted, right)))
        return {"velocity": velocity, "shapes": (1 - done) * shapes, "colours": (1 - done) * colours}


def _loss(predicted: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Return the loss of predictions [n, tokens, labels] against soft labels."""
    return functional.kl_div(predicted.log_softmax(-1), right, reduction="none").sum(-1).mean()


def train(run: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train for at most `minutes`, from the run's text encoders. Returns True if the plan is finished."""
    torch.manual_seed(0)
    student = DenoiserTraining(recipe)
    student.denoiser.text_encoders.load_state_dict(text_encoders.trained(run / "text_encoders", recipe).state_dict())
    student.to(machine.device)
    dataset, plan = Dataset(run / "dataset"), recipe.denoiser

    def losses(step: int) -> Mapping[str, torch.Tensor]:
        random = Random(step)
        size = random.choice(_sizes_at(step / plan.steps, recipe, random))
        tokens = recipe.first_tokens if step < recipe.first_steps else recipe.tokens
        batch = dataset.batch(random, batch_size(recipe, tokens, [size]), Form(size))
        return student.losses(batch, step / plan.steps)

    return Training(run / "denoiser", student, plan).run(losses, minutes)


def batch_size(recipe: Recipe, tokens: int, sizes: Iterable[tuple[int, int]]) -> int:
    """Return how many images of these sizes a step of so many tokens has."""
    images = sum(width * height // recipe.grid**2 for width, height in sizes)
    return max(2, tokens // (images + T5_TOKENS))


def trained(folder: Path, recipe: Recipe) -> Denoiser:
    """Load the denoiser or the editor of a run for inference."""
    return restored(DenoiserTraining(recipe), folder).denoiser


def _sizes_at(share: float, recipe: Recipe, random: Random) -> Sizes:
    """Return the sizes to draw from: small ones at first, then mostly large ones, which are learnt last."""
    drawn = random.random()
    if share < 0.2:
        return recipe.small if drawn < 0.7 else recipe.middle
    if share < 0.35:
        return recipe.middle if drawn < 0.7 else recipe.full
    return recipe.middle if drawn < 0.15 else recipe.full


def flow_loss(denoiser: Denoiser, batch: Batch) -> torch.Tensor:
    """Return the flow-matching loss of the velocities (Liu and others, arXiv 2209.03003)."""
    device = next(denoiser.parameters()).device
    latents, guidance = batch.latents.to(device), batch.guidance.to(device)
    levels = noise_levels(len(latents), device)
    pure = torch.randn_like(latents)
    tokens = packed(torch.lerp(latents, pure, levels[:, None, None, None]))
    read = [tokens, *(packed(reference.to(device)) for reference in batch.references)]
    where = torch.cat([token_positions(latents), *context_positions(batch.references)]).to(latents)
    found = denoiser(batch.prompts, torch.cat(read, dim=1), where, levels, guidance)[:, : tokens.shape[1]]
    return functional.mse_loss(found, packed(pure - latents))


def context_positions(references: Sequence[torch.Tensor]) -> list[torch.Tensor]:
    """Return the positions of the references' tokens, as the farm's Kontext has them."""
    sizes = [Size(latents.shape[2], latents.shape[3], grid=2) for latents in references]
    return [tiled_positions(sizes)] if sizes else []


def noise_levels(number: int, device: torch.device) -> torch.Tensor:
    """Draw noise levels [number]: half logit-normal (Esser and others, arXiv 2403.03206), half from 0.85 to 1.

    High levels are where the prompt alone determines the image, which is the hardest to learn.
    """
    usual = torch.sigmoid(0.8 + 1.2 * torch.randn(number, device=device))
    high = 0.85 + 0.15 * torch.rand(number, device=device)
    return torch.where(torch.rand(number, device=device) < 0.5, high, usual)


def packed(latents: torch.Tensor) -> torch.Tensor:
    """Return latents [n, channels, rows, columns] as tokens [n, rows x columns / 4, 4 x channels], as FLUX.1 does."""
    n, channels, rows, columns = latents.shape
    patches = latents.reshape(n, channels, rows // 2, 2, columns // 2, 2).permute(0, 2, 4, 1, 3, 5)
    return patches.reshape(n, rows * columns // 4, 4 * channels)


def token_positions(latents: torch.Tensor) -> torch.Tensor:
    """Return the position of each token of these latents [tokens, 3]: plane, row, column."""
    return positions(Size(latents.shape[2], latents.shape[3], grid=2))
