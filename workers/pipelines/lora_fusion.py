"""Fusing of LoRA files into a transformer: each update is added, in fp32, to the weight that is being loaded."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open

from farm.domain.errors import ConfigurationError
from farm.weights.lora_files import Lora, LowRankUpdate, Rows, shapes_in, updates_in
from workers.pipelines.transformer import Change, readable


class LoraFusion:
    """The updates of several LoRA files, in their order, by the weights that they change."""

    def __init__(self) -> None:
        self._updates: dict[str, list[tuple[_OpenUpdate, Rows]]] = defaultdict(list)

    def add(self, lora: Lora, file: Any, updates: Iterable[LowRankUpdate]) -> None:
        """Add the updates of a file, whose tensors are read when they are needed."""
        for update in updates:
            for rows in update.rows:
                self._updates[rows.weight].append((_OpenUpdate(lora, file, update), rows))

    def fused(self, name: str, weight: torch.Tensor) -> torch.Tensor:
        """Return a weight with its updates, in fp32; one without any is returned as it is."""
        if name not in self._updates:
            return weight
        changed = weight.to(torch.float32, copy=True)
        for update, rows in self._updates[name]:
            changed[rows.first : rows.first + rows.count] += update.values(rows, weight.device)
        return changed


class _OpenUpdate:
    """An update of a file that is open."""

    def __init__(self, lora: Lora, file: Any, update: LowRankUpdate) -> None:
        self._lora = lora
        self._file = file
        self._update = update

    def values(self, rows: Rows, device: torch.device) -> torch.Tensor:
        """Return what is added to these rows of a weight."""
        up = self._file.get_slice(self._update.up)[rows.begin : rows.begin + rows.count].to(device, torch.float32)
        down = self._file.get_tensor(self._update.down).to(device, torch.float32)
        values: torch.Tensor = (up @ down) * (self._lora.strength * self._alpha(down.shape[0]))
        if not values.isfinite().all():
            raise ConfigurationError(
                f"FARM_LORA: {self._lora.path} cannot be fused: its update of {rows.weight} is not finite; download it"
                " again, or take a smaller strength"
            )
        return values

    def _alpha(self, rank: int) -> float:
        """Return alpha over the rank."""
        alpha = self._update.alpha
        if isinstance(alpha, str):
            alpha = float(self._file.get_tensor(alpha).item())
        return 1.0 if alpha is None else alpha / rank


@contextmanager
def fusion(loras: Iterable[Lora], transformer: Iterable[Path]) -> Iterator[Change | None]:
    """Open LoRA files for the transformer of these files; inside the block, the change fuses them as it is loaded.

    Raises ConfigurationError if one of them does not fit. Without any there is no change.
    """
    found = tuple(loras)
    if not found:
        yield None
        return
    shapes = shapes_in(transformer)
    change = LoraFusion()
    with ExitStack() as files:
        for lora in found:
            updates = updates_in(lora.path, shapes)
            with readable(lora.path):
                file = files.enter_context(safe_open(lora.path, framework="pt", device="cpu"))
            change.add(lora, file, updates)
        yield change.fused
