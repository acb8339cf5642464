"""Linear layers whose weights are kept in fp8 (e4m3) with one scale per row: half of bf16's memory.

One scale per row keeps more likeness than values stored as they are, which is what diffusers' layerwise casting does
(docs/cards.md). Where the device multiplies in fp8, activations are scaled per token, never per batch, so that an image
does not depend on others.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from itertools import chain

import torch
from torch import nn

from farm.weights.fp8 import may_be_fp8, scale_of

FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(FP8).max
#: Keeps a row of zeros from a scale of zero.
_SMALLEST_SCALE = 2.0**-100

#: Computes a layer: from rows of values, weight, scales and bias.
Multiply = Callable[[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor | None], torch.Tensor]


def in_fp8(weight: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return a weight [rows, columns] in fp8, and its scales [rows, 1]: floats that bf16 represents exactly."""
    scale = _row_scales(weight.float()).bfloat16().float()
    return _scaled_down(weight.float(), scale), scale


def multiply_after_cast(
    rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return the layer's values, multiplied in the format of `rows`; works on every device."""
    return nn.functional.linear(rows, full_weight(weight, scale, rows.dtype), bias)


def multiply_in_fp8(
    rows: torch.Tensor, weight: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """Return the layer's values, multiplied in fp8 by the card's own units, and summed in fp32."""
    row_scales = _row_scales(rows.float())
    product: torch.Tensor = torch._scaled_mm(
        _scaled_down(rows.float(), row_scales),
        weight.t(),
        scale_a=row_scales,
        scale_b=scale.t(),
        out_dtype=rows.dtype,
        use_fast_accum=True,
    )
    return product if bias is None else product + bias


def full_weight(weight: torch.Tensor, scale: torch.Tensor, number_format: torch.dtype) -> torch.Tensor:
    """Return a weight out of fp8."""
    return weight.to(number_format) * scale.to(number_format)


def multiplication_on(device: torch.device) -> Multiply:
    """Return how a device multiplies with weights in fp8: in fp8 if it is a card that can, which a trial tells."""
    if device.type != "cuda":
        return multiply_after_cast
    rows = torch.ones(16, 16, device=device, dtype=torch.bfloat16)
    try:
        multiply_in_fp8(rows, *in_fp8(rows), None)
    except (RuntimeError, NotImplementedError, ValueError):
        return multiply_after_cast
    return multiply_in_fp8


class Fp8Linear(nn.Module):
    """A linear layer with its weight in fp8; it takes the place of an `nn.Linear`, and is loaded by its names."""

    weight: torch.Tensor
    weight_scale: torch.Tensor

    def __init__(self, linear: nn.Linear, multiply: Multiply) -> None:
        super().__init__()
        rows, columns = linear.weight.shape
        device = linear.weight.device
        self.register_buffer("weight", torch.empty(rows, columns, dtype=FP8, device=device))
        self.register_buffer("weight_scale", torch.empty(rows, 1, dtype=torch.float32, device=device))
        self.bias = linear.bias
        self._multiply = multiply

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        rows = values.reshape(-1, values.shape[-1])
        return self._multiply(rows, self.weight, self.weight_scale, self.bias).reshape(*values.shape[:-1], -1)


def use_fp8_layers(transformer: nn.Module, multiply: Multiply) -> None:
    """Replace every layer of a transformer that may be kept in fp8, before its weights are loaded."""
    layers = {name: layer for name, layer in transformer.named_modules() if isinstance(layer, nn.Linear)}
    for name, layer in layers.items():
        if may_be_fp8(f"{name}.weight", layer.weight.dim()):
            parent, _, attribute = name.rpartition(".")
            setattr(transformer.get_submodule(parent), attribute, Fp8Linear(layer, multiply))


def copy_in_fp8(transformer: nn.Module, device: torch.device) -> nn.Module:
    """Return a copy of a transformer with its blocks in fp8; all its other weights are those of the original."""
    weights = chain(transformer.parameters(), transformer.buffers())
    copied: nn.Module = deepcopy(transformer, {id(weight): weight for weight in weights})
    use_fp8_layers(copied, multiplication_on(device))
    for name, layer in copied.named_modules():
        if isinstance(layer, Fp8Linear):
            layer.weight, layer.weight_scale = in_fp8(transformer.get_submodule(name).get_parameter("weight"))
    return copied.requires_grad_(False).eval()


def multiplies_in_fp8(device: torch.device) -> bool:
    """Return True if the device multiplies in fp8: then layers in fp8 are faster there."""
    return multiplication_on(device) is multiply_in_fp8


def fp8_entries(name: str, weight: torch.Tensor) -> dict[str, torch.Tensor]:
    """Return the entries of a state dict for a weight in fp8."""
    quantized, scale = in_fp8(weight)
    return {name: quantized, scale_of(name): scale}


def _row_scales(values: torch.Tensor) -> torch.Tensor:
    return (values.abs().amax(dim=1, keepdim=True) / _LARGEST).clamp(min=_SMALLEST_SCALE)


def _scaled_down(values: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    # A scale that was rounded down would lead beyond the largest value, which e4m3 has no infinity for.
    return (values / scale).clamp(-_LARGEST, _LARGEST).to(FP8)
