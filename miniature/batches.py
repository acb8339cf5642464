"""Prefetching of training batches in worker processes."""

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
    """The hardware of a training: torch's device, and the number of processes that draw (0: draw in this one)."""

    device: str = "cpu"
    drawing_processes: int = 0


class BatchQueue(Generic[Batch]):
    """Prefetches `make(step)` for the next steps: drawing a batch takes longer than a GPU needs to train on it."""

    def __init__(self, make: Callable[[int], Batch], processes: int) -> None:
        """Without processes, batches are made on demand."""
        self._make = make
        self._ahead = 4 * processes
        # Not forked: CUDA and threads do not survive a fork.
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


def train_on_batches(
    training: Training,
    make: Callable[[int], Batch],
    losses: Callable[[Batch], Mapping[str, torch.Tensor]],
    machine: Machine,
    minutes: float,
) -> bool:
    """Train on prefetched batches for at most `minutes`. Returns True if the plan is finished."""
    with BatchQueue(make, machine.drawing_processes) as batches:
        return training.run(lambda step: losses(batches(step)), minutes)
