"""The parts of FLUX.1 from diffusers and transformers, imported here alone, without their log messages."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def without_message(logger: str, fragment: str) -> Iterator[None]:
    """Drop the records of this logger whose message contains `fragment`, inside the block."""

    def keep(record: logging.LogRecord) -> bool:
        return fragment not in record.getMessage()

    logging.getLogger(logger).addFilter(keep)
    try:
        yield
    finally:
        logging.getLogger(logger).removeFilter(keep)


# Image processors, of which FLUX uses none, fall back to Pillow without torchvision, and transformers says so twice.
with without_message("transformers.utils.import_utils", "requires torchvision"):
    import diffusers
    import transformers
    from diffusers import (
        AutoencoderKL,
        FlowMatchEulerDiscreteScheduler,
        FluxImg2ImgPipeline,
        FluxKontextPipeline,
        FluxPipeline,
        FluxTransformer2DModel,
        GGUFQuantizationConfig,
    )
    from diffusers.hooks import apply_group_offloading
    from diffusers.models.attention_dispatch import AttentionBackendName, attention_backend, dispatch_attention_fn
    from diffusers.models.resnet import ResnetBlock2D
    from diffusers.pipelines.flux.pipeline_flux import calculate_shift
    from diffusers.pipelines.flux.pipeline_flux_kontext import PREFERRED_KONTEXT_RESOLUTIONS
    from huggingface_hub import constants as hub
    from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer, T5Config, T5EncoderModel


def keep_to_this_machine() -> None:
    """Turn off the model hub and the progress bars of the libraries, for the rest of the process."""
    hub.HF_HUB_OFFLINE = True
    diffusers.utils.logging.disable_progress_bar()
    transformers.utils.logging.disable_progress_bar()


def versions() -> dict[str, str]:
    """Return the versions of the libraries: images may differ between them."""
    return {"diffusers": diffusers.__version__, "transformers": transformers.__version__}


__all__ = [
    "PREFERRED_KONTEXT_RESOLUTIONS",
    "AttentionBackendName",
    "AutoencoderKL",
    "CLIPTextConfig",
    "CLIPTextModel",
    "CLIPTokenizer",
    "FlowMatchEulerDiscreteScheduler",
    "FluxImg2ImgPipeline",
    "FluxKontextPipeline",
    "FluxPipeline",
    "FluxTransformer2DModel",
    "GGUFQuantizationConfig",
    "ResnetBlock2D",
    "T5Config",
    "T5EncoderModel",
    "apply_group_offloading",
    "attention_backend",
    "calculate_shift",
    "dispatch_attention_fn",
    "keep_to_this_machine",
    "versions",
    "without_message",
]
