"""Batches made ahead of the training that waits for them, in processes of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor
from dataclasses import dataclass
from multiprocessing import get_context
from typing import Generic, Self, TypeVar

import torch

from miniature.training import Training

Batch = TypeVar("Batch")


@dataclass(frozen=True, slots=True)
class Machine:
    """What a training may use: torch's device, and processes that draw for it (0: it draws itself)."""

    device: str = "cpu"
    drawers: int = 0


class Feed(Generic[Batch]):
    """The batch of each step, as `make(step)` returns it: drawing takes longer than a GPU needs to learn from it."""

    def __init__(self, make: Callable[[int], Batch], processes: int) -> None:
        """Without processes, batches are made where they are asked for."""
        self._make = make
        self._ahead = 4 * processes
        # Not forked: a process that has used the GPU or threads leaves neither in order to its child.
        self._pool = ProcessPoolExecutor(processes, get_context("spawn")) if processes else None
        self._coming: dict[int, Future[Batch]] = {}

    def __call__(self, step: int) -> Batch:
        if self._pool is None:
            return self._make(step)
        for later in range(step, step + self._ahead):
            if later not in self._coming:
                self._coming[later] = self._pool.submit(self._make, later)
        return self._coming.pop(step).result()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)


def learn(
    training: Training,
    make: Callable[[int], Batch],
    losses: Callable[[Batch], Mapping[str, torch.Tensor]],
    machine: Machine,
    minutes: float,
) -> bool:
    """Train on batches made ahead, for so long at most; says whether the plan is fulfilled."""
    with Feed(make, machine.drawers) as feed:
        return training.run(lambda step: losses(feed(step)), minutes)
