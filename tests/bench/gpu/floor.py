"""The least time that an image could take on this card: its operations, by the rate of the card's largest product."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.gpu.networks import Dimensions, random_network
from workers.pipelines.engine import FluxPipeline
from workers.pipelines.fp8 import in_fp8, multiply_in_fp8
from workers.pipelines.latents import Size

#: Side of the matrices that are multiplied to find a device's rate, and how often they are.
_SIDES = {"cuda": 8192, "cpu": 512}
_PRODUCTS = 20


@dataclass(frozen=True, slots=True)
class Work:
    """Operations of an image: of one full denoising step, and of all besides the steps."""

    step: int
    rest: int

    def seconds(self, full_steps: float, *, rate: float, rest_rate: float) -> float:
        """Return the least time of an image at these rates, in operations per second."""
        return full_steps * self.step / rate + self.rest / rest_rate

    def operations(self, full_steps: float) -> float:
        return full_steps * self.step + self.rest


def work_of(dimensions: Dimensions, size: tuple[int, int]) -> Work:
    """Count the operations of an image by torch's own counter, in a network that computes no values."""
    parts = random_network(dimensions, torch.device("meta"), torch.bfloat16)
    around = Size.around(*size, 2 * int(parts.vae_scale_factor))
    return Work(
        step=_counted(lambda: _step(parts, around, dimensions.tokens)),
        rest=_counted(lambda: _rest(parts, around, dimensions.tokens)),
    )


def _counted(compute: Callable[[], object]) -> int:
    counter = FlopCounterMode(display=False)
    with torch.inference_mode(), torch.device("meta"), counter:
        compute()
    return int(counter.get_total_flops())


def _step(parts: FluxPipeline, size: Size, tokens: int) -> None:
    config, count, dtype = parts.transformer.config, size.rows * size.columns, parts.transformer.dtype
    parts.transformer(
        hidden_states=torch.empty(1, count, config.in_channels, dtype=dtype),
        timestep=torch.empty(1, dtype=dtype),
        guidance=torch.empty(1),
        pooled_projections=torch.empty(1, config.pooled_projection_dim, dtype=dtype),
        encoder_hidden_states=torch.empty(1, tokens, config.joint_attention_dim, dtype=dtype),
        txt_ids=torch.empty(tokens, 3),
        img_ids=torch.empty(count, 3),
    )


def _rest(parts: FluxPipeline, size: Size, tokens: int) -> None:
    parts.text_encoder_2(torch.zeros(1, tokens, dtype=torch.long))
    parts.text_encoder(torch.zeros(1, parts.tokenizer.model_max_length, dtype=torch.long))
    parts.vae.decode(torch.empty(1, 16, 2 * size.rows, 2 * size.columns, dtype=parts.vae.dtype))


def rate_of(device: torch.device, number_format: torch.dtype) -> float:
    """Return the operations per second of a large product of random matrices."""
    side = _SIDES[device.type]
    one, other = (torch.randn(side, side, device=device, dtype=number_format) for _ in range(2))
    return _rate(lambda: one @ other, device, side)


def fp8_rate_of(device: torch.device) -> float:
    """Return the same for a product in fp8 as the farm computes it, scales included."""
    side = _SIDES[device.type]
    rows = torch.randn(side, side, device=device, dtype=torch.bfloat16)
    weight, scale = in_fp8(rows)
    return _rate(lambda: multiply_in_fp8(rows, weight, scale, None), device, side)


def _rate(multiply: Callable[[], object], device: torch.device, side: int) -> float:
    multiply()
    synchronize(device)
    began = time.perf_counter()
    for _ in range(_PRODUCTS):
        multiply()
    synchronize(device)
    return _PRODUCTS * 2 * side**3 / (time.perf_counter() - began)


def synchronize(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
