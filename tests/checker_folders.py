"""Small checkpoints of safety checkers in the published formats: one whose answers are known, and random ones."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from diffusers.pipelines.stable_diffusion.safety_checker import StableDiffusionSafetyChecker
from safetensors.torch import load_file, save_file
from transformers import CLIPConfig, ViTConfig, ViTForImageClassification

_SIDE, _PATCH, _WIDTH = 32, 8, 4
_TOWER = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "image_size": _SIDE,
    "patch_size": _PATCH,
}
WEIGHTS = "model.safetensors"


def red_classifier(folder: Path, *labels: str) -> Path:
    """Write a classifier whose second label means red: the redder an image than blue, the more probable it is."""
    labels = labels or ("normal", "nsfw")
    config = ViTConfig(
        hidden_size=_WIDTH,
        num_hidden_layers=1,
        num_attention_heads=1,
        intermediate_size=_WIDTH,
        image_size=_SIDE,
        patch_size=_PATCH,
        id2label=dict(enumerate(labels)),
        label2id={label: number for number, label in enumerate(labels)},
    )
    model: Any = ViTForImageClassification(config)
    _plant(model.state_dict())
    model.save_pretrained(folder)
    _describe_input(folder, "ViTImageProcessor", {"height": _SIDE, "width": _SIDE}, [0.5] * 3)
    return folder


@torch.no_grad()
def _plant(weights: dict[str, torch.Tensor]) -> None:
    """Plant (red - blue, blue - red, 1, -1) in each patch, their mean in the class token, and a score of its first."""
    for name, tensor in weights.items():
        tensor.zero_()
        if "layernorm" in name and name.endswith("weight"):
            tensor.fill_(1)
        if name.endswith(("value.weight", "v_proj.weight", "attention.output.dense.weight", "o_proj.weight")):
            tensor.copy_(torch.eye(_WIDTH))
    patch = "vit.embeddings.patch_embeddings.projection"
    share = 1 / _PATCH**2
    for channel, sign in ((0, 1), (2, -1)):
        weights[f"{patch}.weight"][0, channel] = sign * share
        weights[f"{patch}.weight"][1, channel] = -sign * share
    weights[f"{patch}.bias"].copy_(torch.tensor([0.0, 0.0, 1.0, -1.0]))
    weights["classifier.weight"][1, 0] = 6


def concept_checker(folder: Path, seed: int = 0) -> Path:
    """Write a random checker in the format of CompVis's, with its names of tensors and its description of the input."""
    torch.manual_seed(seed)
    text = {name: size for name, size in _TOWER.items() if not name.endswith("_size") or name == "hidden_size"}
    config = CLIPConfig(vision_config=_TOWER, text_config=text | {"intermediate_size": 32}, projection_dim=8)
    model: Any = StableDiffusionSafetyChecker(config)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.normal_(std=0.5)
    model.save_pretrained(folder)
    tensors = load_file(folder / WEIGHTS)
    published = {name.replace("vision_model.", "vision_model.vision_model.", 1): t for name, t in tensors.items()}
    published["vision_model.vision_model.embeddings.position_ids"] = torch.arange(17)[None]
    save_file(published, folder / WEIGHTS, metadata={"format": "pt"})
    _describe_input(folder, "CLIPFeatureExtractor", _SIDE, [0.48, 0.46, 0.41], kind="feature_extractor_type")
    return folder


def set_tensors(folder: Path, **tensors: torch.Tensor) -> None:
    """Replace tensors of a checkpoint."""
    save_file(load_file(folder / WEIGHTS) | tensors, folder / WEIGHTS, metadata={"format": "pt"})


def _describe_input(
    folder: Path, processor: str, size: object, mean: list[float], kind: str = "image_processor_type"
) -> None:
    described = {
        kind: processor,
        "do_normalize": True,
        "do_resize": True,
        "image_mean": mean,
        "image_std": [0.5] * 3,
        "resample": 3,
        "size": size,
    }
    if kind == "feature_extractor_type":
        described |= {"do_center_crop": True, "crop_size": size}
    (folder / "preprocessor_config.json").write_text(json.dumps(described))
