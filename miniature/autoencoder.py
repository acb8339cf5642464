"""The miniature's VAE: six levels where FLUX.1's has four, so that a token stands for 64x64 pixels.

Trained on crops of drawn images: a whole image is mostly plain ground.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from random import Random

import numpy as np
import torch
from torch import nn
from torch.nn import functional

from miniature.batches import Machine, train_on_batches
from miniature.drawing import draw
from miniature.recipe import Recipe
from miniature.scene import random_scene
from miniature.training import Training, restored
from workers.checkers.classifier import as_tensor
from workers.pipelines.engine import AutoencoderKL

CHANNELS = 16
#: Channels of every level that carry colours at first: red, green, blue, and their negatives.
_COLOURS = 6
#: Weights of the edge loss and of the divergence loss, beside the colour loss.
_EDGES, _PLAIN = 1.0, 3e-4


def autoencoder(levels: tuple[int, ...]) -> AutoencoderKL:
    """Build a VAE that begins as a blur: its first channels carry the mean colours in, and smoothly out again.

    From random weights a network so deep and narrow takes long to let any image through.
    """
    count = len(levels)
    vae = AutoencoderKL(
        block_out_channels=levels,
        down_block_types=("DownEncoderBlock2D",) * count,
        up_block_types=("UpDecoderBlock2D",) * count,
        layers_per_block=1,
        latent_channels=CHANNELS,
        # All channels in a group: with one in each, the norm would wipe out flat colours.
        norm_num_groups=1,
        sample_size=1024,
        use_quant_conv=False,
        use_post_quant_conv=False,
        force_upcast=False,
    )
    with torch.no_grad():
        for name, module in vae.named_modules():
            if isinstance(module, nn.Conv2d):
                _begin_gently(name, module)
            elif name.endswith("to_out.0"):
                nn.init.zeros_(module.weight)
        _join_ends(vae)
    return vae


def _begin_gently(name: str, layer: nn.Conv2d) -> None:
    if name.endswith("conv2"):
        # A block's second layer: initially it adds nothing.
        nn.init.zeros_(layer.weight)
    elif "downsamplers" in name:
        # Each 2x2 pixels become one: the mean colours, and as much of how pixels differ as there is room for.
        nn.init.zeros_(layer.weight)
        mixed = _mixing(layer.out_channels, 4 * layer.in_channels)
        layer.weight[:, :, :2, :2] = mixed.view(layer.out_channels, layer.in_channels, 2, 2)
        layer.weight[:_COLOURS] = 0
        layer.weight[:_COLOURS, :_COLOURS, :2, :2] = torch.eye(_COLOURS)[:, :, None, None] / 4
    elif "upsamplers" in name:
        # Between the pixels that were doubled, a smooth course.
        smooth = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
        layer.weight.copy_(torch.eye(layer.out_channels)[:, :, None, None] * smooth)
    elif "conv_shortcut" in name:
        mixed = _mixing(layer.out_channels - _COLOURS, layer.in_channels - _COLOURS)
        layer.weight.copy_(_both(torch.eye(_COLOURS), mixed)[:, :, None, None])
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)


def _join_ends(vae: AutoencoderKL) -> None:
    """Lead the colours into the carrying channels, through the latents, and out again."""
    both = torch.cat([torch.eye(3), -torch.eye(3)])
    entrance, exit_ = vae.encoder.conv_in.weight, vae.decoder.conv_out.weight
    entrance[:_COLOURS] = 0
    entrance[:_COLOURS, :, 1, 1] = both
    # SiLU(x) - SiLU(-x) is x: so the colours pass the last norms' activations.
    exit_.mul_(0.1)
    exit_[:, :_COLOURS] = 0
    exit_[:, :_COLOURS, 1, 1] = both.T
    inner, outer = vae.encoder.conv_out, vae.decoder.conv_in
    inner.weight[:3] = 0
    inner.weight[:3, :_COLOURS, 1, 1] = 0.4 * both.T
    outer.weight[:_COLOURS] = 0
    outer.weight[:_COLOURS, :3, 1, 1] = both
    # The spread of the latents begins small beside them: noise would drown what little gets through at first.
    inner.weight[CHANNELS:] = 0
    inner.bias[CHANNELS:] = -5
    # Something constant beside the colours: a plain image is no louder than a gaudy one after the norm.
    vae.decoder.up_blocks[-1].resnets[0].conv_shortcut.bias[_COLOURS:] = 1


def _both(first: torch.Tensor, second: torch.Tensor) -> torch.Tensor:
    """Join two matrices into a block-diagonal one."""
    return torch.cat([functional.pad(first, (0, second.shape[1])), functional.pad(second, (first.shape[1], 0))])


def _mixing(outputs: int, inputs: int) -> torch.Tensor:
    """Return a random matrix [outputs, inputs] that is as near to orthogonal as it can be."""
    return nn.init.orthogonal_(torch.empty(outputs, inputs))


def train(folder: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Train both halves for at most `minutes`. Returns True if the plan is finished."""
    torch.manual_seed(0)
    vae = autoencoder(recipe.levels).to(machine.device)
    return _learn(Training(folder, vae, recipe.autoencoder), vae, partial(_batch, recipe, 0), machine, minutes)


def sharpen(run: Path, recipe: Recipe, machine: Machine, minutes: float) -> bool:
    """Fine-tune the decoder alone for at most `minutes`. Returns True if the plan is finished.

    Latents stay as they are, and with them what a denoiser learns from them meanwhile.
    """
    vae = restored(autoencoder(recipe.levels), run / "autoencoder").to(machine.device)
    vae.decoder.requires_grad_(True)
    unseen = partial(_batch, recipe, recipe.autoencoder.steps)
    return _learn(Training(run / "decoder", vae, recipe.decoder), vae, unseen, machine, minutes)


def _learn(
    training: Training, vae: AutoencoderKL, batch: Callable[[int], torch.Tensor], machine: Machine, minutes: float
) -> bool:
    return train_on_batches(training, batch, lambda images: losses(vae, images.to(machine.device)), machine, minutes)


def _batch(recipe: Recipe, first: int, step: int) -> torch.Tensor:
    return random_crops(Random(first + step), recipe)


def losses(vae: AutoencoderKL, images: torch.Tensor) -> Mapping[str, torch.Tensor]:
    """Return the reconstruction and divergence losses of images [n, 3, height, width] from -1 to 1."""
    latents = vae.encode(images).latent_dist
    rendered = vae.decode(latents.sample(), return_dict=False)[0]
    off = rendered - images
    edges = off.diff(dim=-1).abs().mean() + off.diff(dim=-2).abs().mean()
    coarse = sum(functional.avg_pool2d(off, size).abs().mean() for size in (4, 16))
    # The divergence from a normal distribution, per number.
    plain = latents.kl().mean() / latents.mean[0].numel()
    return {"colour": off.abs().mean(), "coarse": 0.5 * coarse, "edges": _EDGES * edges, "plain": _PLAIN * plain}


def random_crops(random: Random, recipe: Recipe) -> torch.Tensor:
    """Crop squares from drawn images of any size [n, 3, side, side], from -1 to 1; most of them with an edge."""
    found: list[torch.Tensor] = []
    while len(found) < recipe.parts:
        part = _crop(random, recipe)
        if float(part.std(dim=(1, 2)).mean()) > 0.03 or random.random() < 0.1:
            found.append(part)
    return torch.stack(found)


def _crop(random: Random, recipe: Recipe) -> torch.Tensor:
    side, (shortest, longest) = recipe.part, recipe.short_sides
    short = int(shortest * (longest / shortest) ** random.random())
    long = int(short * random.uniform(1.0, 1.8))
    width, height = random.choice([(short, long), (long, short)])
    left, top = random.randint(0, width - side), random.randint(0, height - side)
    drawn = draw(random_scene(random), width, height, (left, top, left + side, top + side))
    return as_tensor(np.asarray(drawn))


def trained(folder: Path, recipe: Recipe) -> AutoencoderKL:
    """Load the VAE of a run, with latents of mean 0 and deviation 1 in every channel."""
    vae = restored(autoencoder(recipe.levels), folder)
    random = Random("scale")
    latents = torch.cat([vae.encode(random_crops(random, recipe)).latent_dist.mean for _ in range(64)])
    spread = latents.std(dim=(0, 2, 3))
    _even_out(vae, spread)
    evened = latents / spread[:, None, None]
    vae.register_to_config(
        shift_factor=round(float(evened.mean()), 4), scaling_factor=round(float(1 / evened.std()), 4)
    )
    return vae


def _even_out(vae: AutoencoderKL, spread: torch.Tensor) -> None:
    """Divide each channel of the latents by its `spread`, and let the decoder multiply by it: images stay the same.

    The VAE leaves the channels of colours five times as wide as those of outlines, which would drown in a denoiser's
    noise; its configuration knows one factor for all.
    """
    inner, outer = vae.encoder.conv_out, vae.decoder.conv_in
    with torch.no_grad():
        inner.weight[:CHANNELS] /= spread[:, None, None, None]
        inner.bias[:CHANNELS] /= spread
        inner.bias[CHANNELS:] -= 2 * spread.log()
        outer.weight *= spread[:, None, None]
