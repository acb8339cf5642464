"""Networks to measure: FLUX.1-dev's, of random weights where no real ones are set; copies of them; and fp8.

The time of a forward does not depend on the values of the weights, so random ones of FLUX.1-dev's size do.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from itertools import chain

import torch
from torch import nn

from workers.pipelines import miniature
from workers.pipelines.engine import (
    AutoencoderKL,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTokenizer,
    FlowMatchEulerDiscreteScheduler,
    FluxPipeline,
    FluxTransformer2DModel,
    T5Config,
    T5EncoderModel,
)
from workers.pipelines.fp8 import copy_in_fp8


@dataclass(frozen=True, slots=True)
class Dimensions:
    """The size of a network. `axes`: of the rotary embedding, which add up to `head`; `text`: width of T5, of CLIP."""

    heads: int
    head: int
    axes: tuple[int, int, int]
    blocks: tuple[int, int]
    text: tuple[int, int]
    text_layers: tuple[int, int]
    text_heads: tuple[int, int]
    text_inner: tuple[int, int]
    channels: tuple[int, ...]
    tokens: int


#: As published with FLUX.1-dev's weights.
FLUX_DEV = Dimensions(
    heads=24,
    head=128,
    axes=(16, 56, 56),
    blocks=(19, 38),
    text=(4096, 768),
    text_layers=(24, 12),
    text_heads=(64, 12),
    text_inner=(10240, 3072),
    channels=(128, 256, 512, 512),
    tokens=512,
)
TINY = Dimensions(
    heads=2,
    head=32,
    axes=(8, 12, 12),
    blocks=(2, 3),
    text=(64, 64),
    text_layers=(1, 1),
    text_heads=(2, 2),
    text_inner=(128, 128),
    channels=(32, 32, 32, 32),
    tokens=64,
)


def random_network(size: Dimensions, device: torch.device, number_format: torch.dtype) -> FluxPipeline:
    """Return a network of random weights on the device; tokenizers and schedule are the miniature's."""
    torch.manual_seed(0)
    with _built_on(device, number_format):
        t5, clip = _text_encoders(size)
        parts = FluxPipeline(
            scheduler=FlowMatchEulerDiscreteScheduler.from_pretrained(miniature.HOME, subfolder="scheduler"),
            text_encoder=clip,
            text_encoder_2=t5,
            tokenizer=CLIPTokenizer.from_pretrained(miniature.HOME, subfolder="tokenizer"),
            tokenizer_2=CLIPTokenizer.from_pretrained(
                miniature.HOME, subfolder="tokenizer_2", model_max_length=size.tokens
            ),
            transformer=_transformer(size),
            vae=_vae(size),
        )
    for name in ("text_encoder", "text_encoder_2", "transformer", "vae"):
        getattr(parts, name).requires_grad_(False).eval()
    return parts


@contextmanager
def _built_on(device: torch.device, number_format: torch.dtype) -> Iterator[None]:
    """Have networks that are built in the block lie on the device, in this number format, from the start."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(number_format)
    try:
        with device:
            yield
    finally:
        torch.set_default_dtype(before)


def _transformer(size: Dimensions) -> FluxTransformer2DModel:
    return FluxTransformer2DModel(
        in_channels=64,
        num_layers=size.blocks[0],
        num_single_layers=size.blocks[1],
        attention_head_dim=size.head,
        num_attention_heads=size.heads,
        joint_attention_dim=size.text[0],
        pooled_projection_dim=size.text[1],
        guidance_embeds=True,
        axes_dims_rope=size.axes,
    )


def _text_encoders(size: Dimensions) -> tuple[T5EncoderModel, CLIPTextModel]:
    t5 = T5Config(
        d_model=size.text[0],
        d_kv=size.text[0] // size.text_heads[0],
        d_ff=size.text_inner[0],
        num_layers=size.text_layers[0],
        num_heads=size.text_heads[0],
        vocab_size=32128,
        feed_forward_proj="gated-gelu",
    )
    clip = CLIPTextConfig(
        hidden_size=size.text[1],
        projection_dim=size.text[1],
        intermediate_size=size.text_inner[1],
        num_hidden_layers=size.text_layers[1],
        num_attention_heads=size.text_heads[1],
        vocab_size=49408,
    )
    return T5EncoderModel(t5), CLIPTextModel(clip)


def _vae(size: Dimensions) -> AutoencoderKL:
    levels = len(size.channels)
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        block_out_channels=size.channels,
        layers_per_block=2,
        latent_channels=16,
        scaling_factor=0.3611,
        shift_factor=0.1159,
        use_quant_conv=False,
        use_post_quant_conv=False,
    )


def twin(parts: FluxPipeline) -> FluxPipeline:
    """Return a copy to be compiled in another way; it shares all weights but the VAE's, whose layout may change."""
    own = {"transformer": _shared(parts.transformer), "vae": deepcopy(parts.vae)}
    return FluxPipeline(**(parts.components | own))


def in_fp8(parts: FluxPipeline, device: torch.device) -> FluxPipeline:
    """Return a copy whose transformer's blocks are in fp8; the rest is shared."""
    own = {"transformer": copy_in_fp8(parts.transformer, device), "vae": deepcopy(parts.vae)}
    return FluxPipeline(**(parts.components | own))


def _shared(module: nn.Module) -> nn.Module:
    tensors = chain(module.parameters(), module.buffers())
    copied: nn.Module = deepcopy(module, {id(tensor): tensor for tensor in tensors})
    return copied
