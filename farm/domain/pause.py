"""Groups of jobs that an operator may pause beside the whole farm."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

GroupKind = Literal["model", "priority", "caller"]


@dataclass(frozen=True, slots=True, order=True)
class Group:
    """The jobs of one model, one priority or one caller. Of a paused one, workers take no jobs."""

    kind: GroupKind
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


@dataclass(frozen=True, slots=True)
class PausedGroup:
    """A group that is paused, and since when, in microseconds since the epoch by Redis's clock."""

    group: Group
    since_us: int
