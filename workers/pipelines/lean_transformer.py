"""The transformer's forward on the CPU: bit for bit what diffusers' own computes, with fewer and cheaper operations.

A small network spends much of a step around its matrix products: on calls of modules, on tables of positions that are
the same in every step, and on copies. Nothing that is left out here changes a value.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import torch
from torch import nn
from torch.nn.functional import gelu, layer_norm, rms_norm, scaled_dot_product_attention, silu

#: Rotations that are kept: one for each size of images.
_ROTATIONS_KEPT = 16
#: FLUX.1's, of every norm.
_EPSILON = 1e-6


def use_lean_forward(transformer: Any) -> None:
    """Have a transformer computed so, wherever it can be."""
    if not isinstance(transformer.forward, LeanForward):
        transformer.forward = LeanForward(transformer)


class LeanForward:
    """The forward of a transformer; its own on a card, and if blocks are compiled, offloaded or in another format."""

    def __init__(self, transformer: Any) -> None:
        self._transformer = transformer
        self._plain: Callable[..., tuple[torch.Tensor]] = transformer.forward
        self._rotation = lru_cache(maxsize=_ROTATIONS_KEPT)(self._make_rotation)

    def __call__(self, **inputs: Any) -> tuple[torch.Tensor]:
        """Return the velocity of the image's tokens from the keyword arguments of FluxTransformer2DModel.forward."""
        tokens, network = inputs["hidden_states"], self._transformer
        is_lean = tokens.device.type == "cpu" and tokens.dtype == torch.float32
        if not (is_lean and all(_is_plain(block) for block in _blocks(network))):
            return self._plain(**inputs)
        rotation = self._rotation(*(inputs[name].numpy().tobytes() for name in ("txt_ids", "img_ids")))
        text, image = network.context_embedder(inputs["encoder_hidden_states"]), network.x_embedder(tokens)
        modulation = silu(self._embedded(inputs))
        for block in network.transformer_blocks:
            text, image = _double_block(block, text, image, modulation, rotation)
        joined = torch.cat([text, image], dim=1)
        for block in network.single_transformer_blocks:
            joined = _single_block(block, joined, modulation, rotation)
        scale, shift = network.norm_out.linear(modulation)[:, None].chunk(2, dim=2)
        return (network.proj_out(_modulated(joined[:, text.shape[1] :], shift, scale)),)

    def _embedded(self, inputs: Any) -> torch.Tensor:
        """Return the embedding [images, inner size] of time, guidance and the prompt as a whole."""
        scalars = [inputs[name] * 1000 for name in ("timestep", "guidance") if inputs[name] is not None]
        embedded: torch.Tensor = self._transformer.time_text_embed(*scalars, inputs["pooled_projections"])
        return embedded

    def _make_rotation(self, *positions: bytes) -> torch.Tensor:
        """Return what the pairs of each head's values are multiplied by, as complex numbers [tokens, 1, head size / 2].

        `positions`: the bytes of those of the text's tokens, and of the image's.
        """
        rows = torch.frombuffer(bytearray(b"".join(positions)), dtype=torch.float32).reshape(-1, 3)
        cosines, sines = self._transformer.pos_embed(rows)
        return torch.complex(cosines[:, ::2], sines[:, ::2])[:, None]


def _blocks(transformer: Any) -> list[Any]:
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def _is_plain(block: Any) -> bool:
    """Return True if a block is as diffusers makes it, and its attention is left to torch."""
    attn = block.attn
    is_own = "forward" not in vars(block) and type(attn.to_q) is nn.Linear
    return is_own and attn.processor._attention_backend in (None, "native")


def _double_block(
    block: Any, text: torch.Tensor, image: torch.Tensor, modulation: torch.Tensor, rotation: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the tokens of text and image after a block that keeps them apart but for their attention."""
    attn, count = block.attn, text.shape[1]
    text_shift, text_scale, text_gate, *of_text = block.norm1_context.linear(modulation)[:, None].chunk(6, dim=2)
    shift, scale, gate, *of_image = block.norm1.linear(modulation)[:, None].chunk(6, dim=2)
    text_states, states = _modulated(text, text_shift, text_scale), _modulated(image, shift, scale)
    query = torch.cat([attn.add_q_proj(text_states), attn.to_q(states)], dim=1)
    key = torch.cat([attn.add_k_proj(text_states), attn.to_k(states)], dim=1)
    value = torch.cat([attn.add_v_proj(text_states), attn.to_v(states)], dim=1)
    heads = _normalized(query, key, attn.head_dim)
    heads[:, :count].mul_(_weights(attn.norm_added_q, attn.norm_added_k))
    heads[:, count:].mul_(_weights(attn.norm_q, attn.norm_k))
    attended = _attended(heads, value, rotation)
    text = attn.to_add_out(attended[:, :count].contiguous()).mul_(text_gate).add_(text)
    image = attn.to_out[0](attended[:, count:].contiguous()).mul_(gate).add_(image)
    return _fed_forward(block.ff_context.net, text, *of_text), _fed_forward(block.ff.net, image, *of_image)


def _single_block(block: Any, tokens: torch.Tensor, modulation: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Return all tokens after a block that computes attention and the layers beside it from the same states."""
    shift, scale, gate = block.norm.linear(modulation)[:, None].chunk(3, dim=2)
    attn, states = block.attn, _modulated(tokens, shift, scale)
    heads = _normalized(attn.to_q(states), attn.to_k(states), attn.head_dim)
    heads.mul_(_weights(attn.norm_q, attn.norm_k))
    attended = _attended(heads, attn.to_v(states), rotation)
    hidden = gelu(block.proj_mlp(states), approximate="tanh")
    changed: torch.Tensor = block.proj_out(torch.cat([attended, hidden], dim=2))
    return changed.mul_(gate).add_(tokens)


def _modulated(tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    return layer_norm(tokens, tokens.shape[-1:], eps=_EPSILON).mul_(1 + scale).add_(shift)


def _fed_forward(
    layers: Any, tokens: torch.Tensor, shift: torch.Tensor, scale: torch.Tensor, gate: torch.Tensor
) -> torch.Tensor:
    hidden = gelu(layers[0].proj(_modulated(tokens, shift, scale)), approximate="tanh")
    changed: torch.Tensor = layers[2](hidden)
    return changed.mul_(gate).add_(tokens)


def _normalized(query: torch.Tensor, key: torch.Tensor, head_size: int) -> torch.Tensor:
    """Return the heads of queries and keys [images, tokens, 2, heads, head size], normalized and not yet weighted."""
    both = torch.stack([query, key], dim=2)
    return rms_norm(both.view(*both.shape[:3], -1, head_size), (head_size,), eps=_EPSILON)


def _weights(query_norm: Any, key_norm: Any) -> torch.Tensor:
    return torch.stack([query_norm.weight, key_norm.weight])[:, None]


def _attended(heads: torch.Tensor, value: torch.Tensor, rotation: torch.Tensor) -> torch.Tensor:
    """Return the attention [images, tokens, inner size] of queries and keys, turned by their positions, to values."""
    pairs = torch.view_as_complex(heads.view(*heads.shape[:4], -1, 2)) * rotation[:, None]
    query, key = torch.view_as_real(pairs).flatten(4).transpose(1, 3).unbind(2)
    values = value.view(*value.shape[:2], -1, heads.shape[-1]).transpose(1, 2)
    return scaled_dot_product_attention(query, key, values).transpose(1, 2).flatten(2)
