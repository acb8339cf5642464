"""FLUX.1's denoising loop: it can be cancelled between steps, and keeps no state."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from farm.domain.request import ImageRequest
from workers.pipelines.latents import Size, positions
from workers.pipelines.network import Network, Prompt, Schedule


@dataclass(frozen=True, slots=True)
class Context:
    """Conditioning `tokens` [1, n, 4 x channels] at `positions` [n, 3]: the transformer reads them, unchanged."""

    tokens: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, slots=True)
class InitialLatents:
    """The start of denoising: the step `first_step` of the sigma schedule, and the tokens [1, tokens, 4 x channels]."""

    tokens: torch.Tensor
    schedule: Schedule
    first_step: int = 0
    context: Context | None = None


class LatentsPreparation(Protocol):
    """Prepares the latents that denoising starts from. One is made for each batch, with the batch's input images."""

    def prepare(self, request: ImageRequest, size: Size) -> InitialLatents: ...


def denoise(
    network: Network,
    start: InitialLatents,
    size: Size,
    prompt: Prompt,
    guidance: float,
    may_continue: Callable[[int], bool],
) -> torch.Tensor | None:
    """Return the tokens after the last step; None once `may_continue`, called after each step, returns False."""
    tokens, context, schedule = start.tokens, start.context, start.schedule
    count = tokens.shape[1]
    token_positions = positions(size) if context is None else torch.cat([positions(size), context.positions])
    token_positions = network.to_device(token_positions)
    for step in range(start.first_step, len(schedule.timesteps)):
        read = tokens if context is None else torch.cat([tokens, context.tokens], dim=1)
        velocity = network.velocity(read, token_positions, schedule.timesteps[step], prompt, guidance)[:, :count]
        tokens = _euler_step(tokens, velocity, schedule.sigmas[step + 1] - schedule.sigmas[step])
        _synchronize(tokens.device)
        if not may_continue(step + 1 - start.first_step):
            return None
    return tokens


def _euler_step(tokens: torch.Tensor, velocity: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """Return the tokens after one Euler step along the velocity, summed in fp32 and rounded to the network's dtype."""
    return (tokens.to(torch.float32) + change * velocity).to(velocity.dtype)


def _synchronize(device: torch.device) -> None:
    """Synchronize with CUDA, which only enqueues the step: progress and cancel would run ahead of it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
