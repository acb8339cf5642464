"""The trained parts as a folder of FLUX.1-dev's layout, which the farm's own loading reads."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch

from miniature import autoencoder, editor, painter
from miniature.painter import Painter
from miniature.recipe import Recipe
from workers.pipelines.engine import FlowMatchEulerDiscreteScheduler, FluxKontextPipeline, FluxPipeline

#: What every part's description says of where it comes from.
ORIGIN = {
    "name": "srpo-farm miniature",
    "what": "A small network of FLUX.1's architecture, trained on drawn shapes, for tests and demonstrations.",
    "not": "It has no weight in common with FLUX.1 or SRPO, and its pictures say nothing about theirs.",
}


def pipeline(run: Path, recipe: Recipe) -> FluxPipeline:
    """The parts that a run's last checkpoints hold, averaged over their last steps."""
    trained = painter.trained(run / "painter", recipe)
    return FluxPipeline(**_shared(run, recipe, trained), transformer=trained.transformer)


def kontext(run: Path, recipe: Recipe) -> FluxKontextPipeline:
    """The same parts with the editor's transformer."""
    trained = editor.trained(run / "editor", recipe)
    return FluxKontextPipeline(**_shared(run, recipe, trained), transformer=trained.transformer)


def _shared(run: Path, recipe: Recipe, trained: Painter) -> dict[str, Any]:
    return {
        "scheduler": FlowMatchEulerDiscreteScheduler(shift=3.0, use_dynamic_shifting=True),
        "vae": autoencoder.trained(run / "autoencoder", recipe),
        "text_encoder": trained.text_encoder,
        "tokenizer": trained.tokenizer,
        "text_encoder_2": trained.text_encoder_2,
        "tokenizer_2": trained.tokenizer_2,
    }


def save(run: Path, recipe: Recipe, target: Path) -> None:
    """Write the folder of the painter, and in `kontext` the editor's transformer; all in half precision."""
    pipeline(run, recipe).to(dtype=torch.float16).save_pretrained(target)
    edits = editor.trained(run / "editor", recipe).transformer
    edits.to(dtype=torch.float16).save_pretrained(target / "kontext" / "transformer")
    for description in target.rglob("config.json"):
        described = json.loads(description.read_text()) | {"_miniature": ORIGIN}
        description.write_text(json.dumps(described, indent=2) + "\n")
