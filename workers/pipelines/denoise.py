"""FLUX.1's denoising loop, ours, so that it can stop between steps and leaves nothing behind."""

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
    """What the transformer reads beside what it denoises: `tokens` [1, n, 4 x channels] at `positions` [n, 3]."""

    tokens: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, slots=True)
class Start:
    """Where denoising begins: at the step `first` of the schedule, with these tokens [1, tokens, 4 x channels]."""

    tokens: torch.Tensor
    schedule: Schedule
    first: int = 0
    context: Context | None = None


class Method(Protocol):
    """How a model's images begin. One is made for each batch, and knows the batch's images."""

    def start(self, request: ImageRequest, size: Size) -> Start: ...


def denoise(
    network: Network, start: Start, size: Size, prompt: Prompt, guidance: float, go_on: Callable[[int], bool]
) -> torch.Tensor | None:
    """The tokens after the last step; None as soon as `go_on`, asked after each step, says no."""
    tokens, context, schedule = start.tokens, start.context, start.schedule
    count = tokens.shape[1]
    places = positions(size) if context is None else torch.cat([positions(size), context.positions])
    places = network.to_device(places)
    for step in range(start.first, len(schedule.timesteps)):
        read = tokens if context is None else torch.cat([tokens, context.tokens], dim=1)
        velocity = network.velocity(read, places, schedule.timesteps[step], prompt, guidance)[:, :count]
        tokens = _euler(tokens, velocity, schedule.sigmas[step + 1] - schedule.sigmas[step])
        _wait_for(tokens.device)
        if not go_on(step + 1 - start.first):
            return None
    return tokens


def _euler(tokens: torch.Tensor, velocity: torch.Tensor, change: torch.Tensor) -> torch.Tensor:
    """One step along the velocity, added up in fp32 and rounded to the network's format."""
    return (tokens.to(torch.float32) + change * velocity).to(velocity.dtype)


def _wait_for(device: torch.device) -> None:
    """Wait until the step is done: CUDA only queues it, and progress and cancel would run ahead of the image."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()
