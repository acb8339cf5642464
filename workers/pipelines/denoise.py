"""FLUX.1's denoising loop. All that one image keeps between two steps is in an object of its own."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from farm.domain.acceleration import MAX_ORDER
from farm.domain.request import ImageRequest
from workers.pipelines.extrapolation import StepPlan
from workers.pipelines.latents import Size
from workers.pipelines.network import ForwardInputs, Network, Prompt, Schedule
from workers.pipelines.pipeline import InputImages


@dataclass(frozen=True, slots=True)
class Context:
    """Conditioning `tokens` [1, n, 4 x channels] at `positions` [n, 3]: the transformer reads them, unchanged."""

    tokens: torch.Tensor
    positions: torch.Tensor


@dataclass(frozen=True, slots=True)
class InitialLatents:
    """The start of denoising: the steps that are done, and the tokens [1, tokens, 4 x channels] before the first."""

    tokens: torch.Tensor
    schedule: Schedule
    context: Context | None = None


class LatentsPreparation(Protocol):
    """Prepares the latents that denoising starts from."""

    def prepare(self, request: ImageRequest, size: Size, inputs: InputImages, /) -> InitialLatents: ...


class Denoising:
    """One image in flight, between two steps of its own schedule; images that advance in turn share nothing.

    At a full step (`needs_forward`) the transformer computes a velocity from `forward_inputs`, and `advance` takes it.
    At any other step, `extrapolate` continues the velocities of the last full steps instead.
    """

    def __init__(
        self, start: InitialLatents, token_positions: torch.Tensor, prompt: Prompt, guidance: float, plan: StepPlan
    ) -> None:
        """Begin before the first step. `token_positions`: of the image's own tokens, then of those of its context."""
        self.tokens = start.tokens
        self.prompt = prompt
        #: Steps that are done.
        self.step = 0
        self._context = start.context
        self._schedule = start.schedule
        self._token_positions = token_positions
        self._guidance = guidance
        self._plan = plan
        self._velocities: deque[torch.Tensor] = deque(maxlen=MAX_ORDER + 1)

    @property
    def is_finished(self) -> bool:
        return self.step == len(self._plan)

    @property
    def full_steps(self) -> int:
        """Steps of the plan at which the transformer runs."""
        return sum(weights is None for weights in self._plan)

    @property
    def needs_forward(self) -> bool:
        """True if the next step is a full one."""
        return self._plan[self.step] is None

    @property
    def estimate(self) -> torch.Tensor:
        """The tokens at the end of denoising if the velocity stays as it was last."""
        if not self._velocities:
            return self.tokens
        return self.tokens.to(torch.float32) - self._schedule.sigmas[self.step] * self._velocities[-1]

    def forward_inputs(self) -> ForwardInputs:
        """Return what the transformer needs for the next step."""
        context = self._context
        tokens = self.tokens if context is None else torch.cat([self.tokens, context.tokens], dim=1)
        time = self._schedule.timesteps[self.step]
        return ForwardInputs(tokens, self._token_positions, time, self.prompt, self._guidance)

    def advance(self, velocity: torch.Tensor) -> None:
        """Do a full step with the transformer's velocity; that of the context's tokens is dropped."""
        own = velocity[:, : self.tokens.shape[1]]
        self._velocities.append(own)
        self._move(own)

    def extrapolate(self) -> None:
        """Do a step that the plan skips, with the velocity extrapolated in fp32."""
        weights = self._plan[self.step]
        assert weights is not None, "a full step needs the transformer's velocity"
        self._move(_weighted_sum(list(self._velocities)[-len(weights) :], weights))

    def _move(self, velocity: torch.Tensor) -> None:
        """Do one Euler step along the velocity, summed in fp32 and rounded to the network's dtype."""
        change = self._schedule.sigmas[self.step + 1] - self._schedule.sigmas[self.step]
        self.tokens = (self.tokens.to(torch.float32) + change * velocity).to(self.tokens.dtype)
        self.step += 1


def advance(network: Network, images: Sequence[Denoising], *, in_fp8: bool = False) -> None:
    """Do the next step of each of these images of equal positions; those at a full step share one forward."""
    full = [image for image in images if image.needs_forward]
    for image in images:
        if image not in full:
            image.extrapolate()
    if full:
        velocities = network.velocities([image.forward_inputs() for image in full], in_fp8=in_fp8)
        for image, velocity in zip(full, velocities, strict=True):
            image.advance(velocity)


def _weighted_sum(velocities: Sequence[torch.Tensor], weights: Sequence[float]) -> torch.Tensor:
    total = torch.zeros_like(velocities[0], dtype=torch.float32)
    for velocity, weight in zip(velocities, weights, strict=True):
        total = total.add(velocity, alpha=weight)
    return total
