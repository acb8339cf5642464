"""Export of the trained parts as a folder with FLUX.1-dev's layout, which the farm loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from shutil import rmtree

import torch
from safetensors.torch import load_file, save_file

from miniature import autoencoder, denoiser
from miniature.recipe import Recipe
from workers.pipelines import miniature
from workers.pipelines.engine import FlowMatchEulerDiscreteScheduler, FluxPipeline

#: The note on the origin of the weights in every `config.json`.
ORIGIN = {
    "name": "srpo-farm miniature",
    "what": "A small network of FLUX.1's architecture, trained on drawn shapes, for tests and demonstrations.",
    "not": "It has no weight in common with FLUX.1 or SRPO, and its images say nothing about theirs.",
}


def save(run: Path, recipe: Recipe, target: Path) -> None:
    """Write the denoiser's folder and, if the recipe has an editor, Kontext's transformer: in half precision, named."""
    parts = denoiser.trained(run / "denoiser", recipe)
    text_encoders = parts.text_encoders
    pipeline = FluxPipeline(
        scheduler=FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        vae=autoencoder.trained(run / "decoder", recipe),
        text_encoder=text_encoders.text_encoder,
        tokenizer=text_encoders.tokenizer,
        text_encoder_2=text_encoders.text_encoder_2,
        tokenizer_2=text_encoders.tokenizer_2,
        transformer=parts.transformer,
    )
    pipeline.to(dtype=torch.float16).save_pretrained(target)
    rmtree(miniature.kontext(target), ignore_errors=True)
    if recipe.has_editor:
        edits = denoiser.trained(run / "editor", recipe).transformer
        edits.to(dtype=torch.float16).save_pretrained(miniature.kontext(target) / "transformer")
    for path in target.rglob("config.json"):
        _add(path, ORIGIN)
    for weights in target.rglob("*.safetensors"):
        # Copied: the loaded tensors are mapped to the file that is overwritten.
        tensors = {name: tensor.clone() for name, tensor in load_file(weights).items()}
        save_file(tensors, weights, metadata={"format": "pt", **ORIGIN})


def has_editor(home: Path) -> bool:
    """Return True if the folder's Kontext was trained to read images."""
    return miniature.kontext(home).exists()


def _add(path: Path, origin: Mapping[str, object]) -> None:
    described = json.loads(path.read_text("utf-8")) | {"_miniature": origin}
    path.write_text(json.dumps(described, indent=2) + "\n", "utf-8")
