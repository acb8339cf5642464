"""Pipelines for tests, made from diffusers' own parts, and their output."""

from __future__ import annotations

from collections.abc import Callable
from copy import copy, deepcopy
from pathlib import Path
from typing import Any

import torch
from PIL import Image

from farm.domain.acceleration import BUNDLED, Levels
from farm.domain.catalogue import Weights
from farm.domain.request import ImageRequest
from workers.pipelines import miniature
from workers.pipelines.engine import FluxPipeline
from workers.pipelines.flux import FluxModels
from workers.pipelines.network import Network
from workers.pipelines.pipeline import InputImages
from workers.pipelines.sharing import EXACT, Sharing

#: Colours that run across, around and down.
WAVES = Image.merge(
    "RGB", [Image.linear_gradient("L"), Image.radial_gradient("L"), Image.linear_gradient("L").rotate(90)]
)
#: Of several shapes. The wide one lies on the miniature's grid, to which diffusers rounds before it takes the ratio.
INPUTS: InputImages = {
    "waves": WAVES,
    "wide": WAVES.rotate(180).resize((320, 192)),
    "red": Image.new("RGB", (70, 90), (200, 30, 30)),
    "blue": Image.new("RGB", (64, 64), (20, 30, 230)),
}


def miniature_parts() -> Any:
    """Return the miniature as diffusers loads it."""
    return FluxPipeline.from_pretrained(miniature.HOME, local_files_only=True, dtype=torch.float32)


def as_diffusers(parts: Any, pipeline: Any = FluxPipeline) -> Any:
    """Return a pipeline of diffusers with these parts, whose transformer has the forward that diffusers gives it."""
    transformer = copy(parts.transformer)
    vars(transformer).pop("forward", None)
    return pipeline(**(parts.components | {"transformer": transformer}))


def kontext_of(parts: Any) -> Any:
    """Return a Kontext pipeline with a transformer unlike SRPO's, and the same other parts."""
    transformer = deepcopy(parts.transformer)
    transformer.proj_out.weight.data.mul_(1.1)
    return FluxPipeline(**(parts.components | {"transformer": transformer}))


def add_editor(home: Path) -> None:
    """Add a Kontext transformer to a copy of the miniature's folder."""
    kontext_of(miniature_parts()).transformer.save_pretrained(miniature.kontext(home) / "transformer")


def pipeline_of(srpo: Any, kontext: Any = None, levels: Levels = BUNDLED, sharing: Sharing = EXACT) -> FluxModels:
    loaded = {Weights.SRPO: srpo, Weights.KONTEXT: kontext}
    networks = {name: Network(parts) for name, parts in loaded.items() if parts is not None}
    return FluxModels(networks, weights="miniature", build="test", levels=levels, sharing=sharing)


def render(pipeline: FluxModels, *requests: ImageRequest, inputs: InputImages = INPUTS) -> list[Image.Image]:
    return [rendered.image for rendered in pipeline.render(requests, lambda *_: True, inputs)]


def record(module: torch.nn.Module, into: list[Any]) -> Callable[[], None]:
    """Append each forward's tensors, inputs by name and the output; return a function that ends it."""

    def hook(_module: torch.nn.Module, _args: Any, kwargs: dict[str, Any], output: Any) -> None:
        tensors = {name: value.clone() for name, value in kwargs.items() if isinstance(value, torch.Tensor)}
        into.append(tensors | {"output": output[0].clone()})

    return module.register_forward_hook(hook, with_kwargs=True).remove


def differences(ours: list[Any], theirs: list[Any]) -> list[str]:
    """Return where two recorded runs differ: the tensors of each step by name, and the images."""
    assert len(ours) == len(theirs)
    *our_steps, our_image = ours
    *their_steps, their_image = theirs
    steps = enumerate(zip(our_steps, their_steps, strict=True))
    tensors = [
        f"{name} of step {step}"
        for step, (our, their) in steps
        for name in our.keys() | their.keys()
        if not torch.equal(our[name], their[name])
    ]
    return tensors + ["image"] * (our_image != their_image)


def keeping(into: list[Any]) -> Callable[..., tuple[torch.Tensor]]:
    """Replace `vae.decode`, which takes half a minute in bf16 on most CPUs: keep the latents, return black."""

    def decode(latents: torch.Tensor, return_dict: bool) -> tuple[torch.Tensor]:
        into.append(latents.clone())
        return (torch.zeros(1, 3, 32 * latents.shape[2], 32 * latents.shape[3]),)

    return decode


def count_encodings(vae: Any) -> list[int]:
    """Return a list that grows by one with each image that the VAE encodes."""
    calls: list[int] = []
    vae.encoder.register_forward_hook(lambda *_: calls.append(1))
    return calls


def with_one_pixel_changed(key: str) -> InputImages:
    image = INPUTS[key].copy()
    image.putpixel((9, 9), (255, 255, 255))
    return {**INPUTS, key: image}
