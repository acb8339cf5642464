"""Model that every peer serves: diffusers' own pipeline with the miniature's weights, several prompts in one call."""

from __future__ import annotations

import base64
import io
from typing import Any

import torch
from diffusers import FluxPipeline

from workers.pipelines.miniature import HOME

#: What a peer is asked for.
Request = dict[str, Any]
Answer = dict[str, str]
#: Images of a batch at most, and how long a peer waits for others to fill one, in seconds.
MAX_BATCH = 4
BATCH_SECONDS = 0.05


def load() -> Any:
    """Return the pipeline."""
    pipeline = FluxPipeline.from_pretrained(HOME, torch_dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def render(pipeline: Any, requests: list[Request]) -> list[Answer]:
    """Return an image for each request; all of them have the size and steps of the first."""
    images = pipeline(
        [request["prompt"] for request in requests],
        generator=[torch.Generator().manual_seed(request["seed"]) for request in requests],
        height=requests[0]["height"],
        width=requests[0]["width"],
        num_inference_steps=requests[0]["steps"],
        guidance_scale=4.5,
        # Prompts of the weights' own length, as the farm's: diffusers would pad each to 512 tokens.
        max_sequence_length=pipeline.tokenizer_2.model_max_length,
    ).images
    return [{"image": _encoded(image)} for image in images]


def _encoded(image: Any) -> str:
    content = io.BytesIO()
    image.save(content, "JPEG")
    return base64.b64encode(content.getvalue()).decode()
