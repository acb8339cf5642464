"""Layers in fp8: their rounding, what they compute, and which layers they are."""

from __future__ import annotations

from typing import Any, cast

import pytest
import torch
from torch import nn

from workers.pipelines.fp8 import (
    FP8,
    Fp8Linear,
    fp8_entries,
    full_weight,
    in_fp8,
    multiplication_on,
    multiply_after_cast,
    multiply_in_fp8,
    use_fp8_layers,
)

pytestmark = pytest.mark.usefixtures("one_thread")


def weight(rows: int = 48, columns: int = 64, *, largest: float = 1.0) -> torch.Tensor:
    return largest * torch.randn(rows, columns, generator=torch.Generator().manual_seed(1))


def layer(values: torch.Tensor, bias: torch.Tensor | None) -> Fp8Linear:
    """Return a layer with this weight, kept in fp8."""
    layers = nn.ModuleDict({"layer": nn.Linear(values.shape[1], values.shape[0], bias=bias is not None)})
    layers["layer"] = kept = Fp8Linear(cast(nn.Linear, layers["layer"]), multiply_after_cast)
    layers.load_state_dict(fp8_entries("layer.weight", values) | ({} if bias is None else {"layer.bias": bias}))
    return kept.requires_grad_(False)


@pytest.mark.parametrize("largest", [1e-6, 1.0, 1e4])
def test_a_weight_keeps_four_bits_whatever_its_size(largest: float) -> None:
    values = weight(largest=largest)

    quantized, scale = in_fp8(values)

    assert (quantized.dtype, scale.shape) == (FP8, (48, 1))
    assert torch.equal(scale, scale.bfloat16().float())
    error = (full_weight(quantized, scale, torch.float32) - values).abs()
    # Half of the last of four bits; below 2⁻⁶ of the scale numbers are evenly spaced.
    assert bool((error <= torch.maximum(values.abs() / 16, scale * 2.0**-10) * 1.01).all())


def test_values_as_they_are_would_be_lost() -> None:
    """Without scales, as layerwise casting stores them, a layer with small weights is mostly zeros."""
    values = weight(largest=1e-3)

    assert (values.to(FP8) == 0).float().mean() > 0.5
    assert (in_fp8(values)[0] == 0).float().mean() < 0.01


def test_a_row_of_zeros_stays_zero() -> None:
    values = weight()
    values[3] = 0

    quantized, scale = in_fp8(values)

    assert not full_weight(quantized, scale, torch.float32)[3].any()
    assert torch.isfinite(scale).all()


@pytest.mark.parametrize("bias", [None, torch.arange(48.0)])
def test_a_layer_computes_with_its_rounded_weight(bias: torch.Tensor | None) -> None:
    values = weight()
    tokens = torch.randn(2, 5, 64)

    computed = layer(values, bias)(tokens)

    expected = nn.functional.linear(tokens, full_weight(*in_fp8(values), torch.float32), bias)
    assert torch.allclose(computed, expected, atol=1e-5)
    assert computed.shape == (2, 5, 48)


def test_multiplying_in_fp8_adds_the_rounding_of_the_tokens_only() -> None:
    tokens = torch.randn(7, 64).bfloat16()
    quantized, scale = in_fp8(weight())

    fast = multiply_in_fp8(tokens, quantized, scale, None)
    exact = multiply_after_cast(tokens.float(), quantized, scale, None)

    assert fast.dtype == torch.bfloat16
    assert ((fast.float() - exact).norm() / exact.norm()) < 0.04


def test_a_token_in_fp8_does_not_depend_on_others() -> None:
    tokens = torch.randn(7, 64).bfloat16()
    tokens[1:] *= 1000
    quantized, scale = in_fp8(weight())

    alone = multiply_in_fp8(tokens[:1], quantized, scale, None)

    # One row and seven are summed in different orders, which may round the last bit differently.
    torch.testing.assert_close(multiply_in_fp8(tokens, quantized, scale, None)[:1], alone, rtol=0.01, atol=0.01)


def test_the_cpu_multiplies_after_casting() -> None:
    assert multiplication_on(torch.device("cpu")) is multiply_after_cast


def test_the_layers_of_the_blocks_are_in_fp8_but_not_those_that_steer_them(parts: Any) -> None:
    transformer = parts.transformer
    linear = {name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)}

    use_fp8_layers(transformer, multiply_after_cast)

    kept = {name for name, module in transformer.named_modules() if isinstance(module, Fp8Linear)}
    assert kept == {name for name in linear if "blocks." in name and ".norm" not in name}
    assert {name.split(".", 2)[2] for name in kept if name.startswith("single")} == {
        "attn.to_q",
        "attn.to_k",
        "attn.to_v",
        "proj_mlp",
        "proj_out",
    }
    assert "transformer_blocks.0.ff_context.net.2" in kept
