"""Grids: every combination of several seeds, guidances and numbers of steps."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import product
from typing import Any, TypeVar

import typer

from farm.cli.request_file import FileRequest

N = TypeVar("N", int, float)

MAX_VALUES = 1000
_RANGE = re.compile(r"(\d+)-(\d+)")


@dataclass(frozen=True, slots=True)
class Axis:
    """One parameter of a grid: its field, a symbol that stands for it in file names, and its values."""

    field: str
    symbol: str
    values: Sequence[int | float]


def values_of(option: str, text: str, convert: Callable[[str], N]) -> list[N]:
    """Parse numbers separated by commas. Raises BadParameter."""
    try:
        return [convert(part) for part in text.split(",")]
    except ValueError as error:
        allowed = "7, or several as in 7,9" if convert is int else "4.5, or several as in 3,4.5"
        raise typer.BadParameter(
            f"'{text}' is not a list of numbers; allowed: {allowed}.", param_hint=f"'{option}'"
        ) from error


def seeds_of(option: str, text: str) -> list[int]:
    """Parse seeds and ranges of seeds, as in `1-8,12`. Raises BadParameter."""
    seeds: list[int] = []
    for part in text.split(","):
        if match := _RANGE.fullmatch(part.strip()):
            first, last = int(match[1]), int(match[2])
            if not 0 <= last - first < MAX_VALUES:
                raise typer.BadParameter(
                    f"'{part}' is not a range of 1 to {MAX_VALUES} seeds; allowed: 1-8.", param_hint=f"'{option}'"
                )
            seeds += range(first, last + 1)
        else:
            seeds += values_of(option, part, int)
    return seeds


def grid(requests: Sequence[FileRequest], axes: Sequence[Axis]) -> list[FileRequest]:
    """Return each request with each combination of the axes' values, which are in its id, too."""
    found = []
    for request in requests:
        for values in product(*(axis.values for axis in axes)):
            fields: dict[str, Any] = {axis.field: value for axis, value in zip(axes, values, strict=True)}
            suffix = "".join(f"-{axis.symbol}{fields[axis.field]:.15g}" for axis in axes)
            found.append(replace(request, id=request.id + suffix, fields={**request.fields, **fields}))
    return found


def columns(axes: Sequence[Axis]) -> int:
    """Return the number of columns in which each row has all values of the last axis."""
    return len(axes[-1].values) if axes else 0
