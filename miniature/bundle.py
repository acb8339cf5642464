"""The trained parts as a folder of FLUX.1-dev's layout, which the farm's own loading reads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree

import torch
from safetensors.torch import load_file, save_file

from miniature import autoencoder, checker, denoiser
from miniature.recipe import Recipe
from workers.pipelines import miniature
from workers.pipelines.engine import FlowMatchEulerDiscreteScheduler, FluxPipeline

#: What every part's description says of where it comes from.
ORIGIN = {
    "name": "srpo-farm miniature",
    "what": "A small network of FLUX.1's architecture, trained on drawn shapes, for tests and demonstrations.",
    "not": "It has no weight in common with FLUX.1 or SRPO, and its images say nothing about theirs.",
}


def save(run: Path, recipe: Recipe, target: Path) -> None:
    """Write the denoiser's folder, the checker and, if the recipe has an editor, Kontext's transformer.

    All in half precision, all named.
    """
    parts = denoiser.trained(run / "denoiser", recipe)
    readers = parts.readers
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder.trained(run / "decoder", recipe),
        text_encoder=readers.text_encoder,
        tokenizer=readers.tokenizer,
        text_encoder_2=readers.text_encoder_2,
        tokenizer_2=readers.tokenizer_2,
        transformer=parts.transformer,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(target)
    rmtree(miniature.kontext(target), ignore_errors=True)
    if recipe.has_editor:
        edits = denoiser.trained(run / "editor", recipe).transformer
        edits.to(dtype=torch.float16).save_pretrained(miniature.kontext(target) / "transformer")
    for description in target.rglob("config.json"):
        _add(description, ORIGIN)
    for weights in target.rglob("*.safetensors"):
        # Copied: what is loaded still lies in the file that is written anew.
        tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt", **ORIGIN})
    checker.save(run / "checker", miniature.checker(target), ORIGIN)


def has_editor(home: Path) -> bool:
    """Whether the folder's Kontext was trained to read images."""
    return miniature.kontext(home).exists()


def _add(description: Path, told: Mapping[str, object]) -> None:
    described = json.loads(description.read_text()) | {"_miniature": told}
    description.write_text(json.dumps(described, indent=2) + "\n")
