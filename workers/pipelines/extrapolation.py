"""Extrapolation of the transformer's velocity at the denoising steps that a level of acceleration skips. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod

#: For each denoising step, None if the transformer runs; else a weight for each of the last full steps' velocities,
#: the oldest first.
StepPlan = Sequence[tuple[float, ...] | None]


def step_plan(mask: str, axis: Sequence[float], order: int) -> StepPlan:
    """Return the plan of the steps of `mask` ("1": a full one), at these points of `axis`, in practice the sigmas.

    A skipped step continues the polynomial of degree `order` through the last `order` + 1 full steps; of a lower
    degree while there are fewer.
    """
    plan: list[tuple[float, ...] | None] = []
    known: list[float] = []
    for point, digit in zip(axis, mask, strict=True):
        if digit == "1":
            known.append(point)
            plan.append(None)
        else:
            plan.append(lagrange_weights(known[-order - 1 :], point))
    return plan


def lagrange_weights(known: Sequence[float], point: float) -> tuple[float, ...]:
    """Return the weights of a polynomial's values at `known` that add up to its value at `point` (Lagrange)."""
    return tuple(prod((point - other) / (own - other) for other in known if other != own) for own in known)
