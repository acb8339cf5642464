"""Traces: the jobs of a simulation, read from a file or made up."""

from __future__ import annotations

import csv
import json
import math
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from itertools import accumulate, product
from pathlib import Path
from typing import Annotated, Any, NamedTuple

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from farm.domain.acceleration import BUNDLED
from farm.domain.catalogue import MAX_IMAGES, MAX_SIDE, MAX_STEPS, MIN_SIDE, SIZE_PRESETS, Acceleration, named
from farm.domain.errors import FarmError
from farm.domain.request import Request
from farm.domain.scheduling import QueuePriority

#: Jobs of a generated trace are drawn for so many seconds at a time.
_CHUNK_SECONDS = 60
_DAY_SECONDS = 86400


class UnusableTrace(FarmError):
    """A file that is not a trace."""


@dataclass(frozen=True)
class Shape:
    """The facts of a job's request that the policy and the card know."""

    model: str
    batch_key: str
    images: int
    cost: float
    #: Full steps of each image.
    steps: int

    @cached_property
    def step_cost(self) -> float:
        """The cost of a full step of one image."""
        return self.cost / self.images / self.steps


class Arrival(NamedTuple):
    """A job of a trace: when it is submitted, in seconds, and by whom."""

    at: float
    caller: str
    priority: QueuePriority
    shape: Shape


class Row(BaseModel):
    """A job as a line of a file has it."""

    model_config = ConfigDict(extra="forbid")

    at: Annotated[float, Field(ge=0, allow_inf_nan=False)]
    model: str = "srpo"
    priority: QueuePriority = "normal"
    caller: str = "local"
    width: Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)] = 1024
    height: Annotated[int, Field(ge=MIN_SIDE, le=MAX_SIDE)] = 768
    steps: Annotated[int, Field(ge=1, le=MAX_STEPS)] = 28
    images: Annotated[int, Field(ge=1, le=MAX_IMAGES)] = 1
    acceleration: Acceleration = "none"

    def arrival(self) -> Arrival:
        """Return the job. Raises KeyError for an unknown model."""
        shape = shape_of(self.model, (self.width, self.height), self.steps, self.images, self.acceleration)
        return Arrival(self.at, self.caller, self.priority, shape)


@cache
def shape_of(model: str, size: tuple[int, int], steps: int, images: int, level: Acceleration) -> Shape:
    """Return the shape of a request. Raises KeyError for an unknown model."""
    request = Request(
        model=model,
        prompt="",
        width=size[0],
        height=size[1],
        steps=steps,
        guidance=1,
        seed=0,
        images=images,
        acceleration=level,
        sources=("an input",) * named(model).min_inputs,
    )
    return Shape(model, request.batch_key, images, request.cost, max(1, BUNDLED.full_steps(level, steps)))


def read(path: Path) -> list[Arrival]:
    """Return the jobs of a CSV file with a header, or of JSONL, by time. Raises UnusableTrace."""
    try:
        text = path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise UnusableTrace(f"--trace: cannot read {path}: {error}.") from error
    rows = csv.DictReader(text.splitlines()) if path.suffix == ".csv" else _json_lines(text)
    return sorted((_arrival(number, row) for number, row in enumerate(rows, 1)), key=lambda arrival: arrival.at)


def _json_lines(text: str) -> Iterator[Any]:
    for line in filter(str.strip, text.splitlines()):
        try:
            yield json.loads(line)
        except ValueError:
            yield None


def _arrival(number: int, row: Any) -> Arrival:
    try:
        return Row.model_validate(row).arrival()
    except KeyError as error:
        raise UnusableTrace(f"--trace: job {number} names an unknown model, {error}.") from error
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "the line"
        raise UnusableTrace(f"--trace: job {number} is not usable: {field}: {first['msg']}.") from error


@dataclass(frozen=True, slots=True)
class Mix:
    """The parts of a made-up trace: each value with its weight."""

    models: Mapping[str, float]
    sizes: Mapping[str, float]
    levels: Mapping[str, float]
    images: Mapping[str, float]
    priorities: Mapping[str, float]
    steps: int = 28
    callers: int = 100

    def kinds(self) -> list[tuple[tuple[str, Shape], float]]:
        """Return every priority with every shape, and its weight. Raises KeyError for an unknown model."""
        found = []
        for several in product(self.models, self.sizes, self.levels, self.images, self.priorities):
            model, size, level, images, priority = several
            shape = shape_of(model, size_of(size), self.steps, int(images), level)
            weights = (self.models[model], self.sizes[size], self.levels[level], self.images[images])
            found.append(((priority, shape), math.prod(weights) * self.priorities[priority]))
        return found

    def mean_cost(self) -> float:
        """Return the mean cost of a job."""
        kinds = self.kinds()
        return sum(shape.cost * weight for (_, shape), weight in kinds) / sum(weight for _, weight in kinds)


def size_of(text: str) -> tuple[int, int]:
    """Return the size that a preset or WxH means. Raises ValueError."""
    if text in SIZE_PRESETS:
        return SIZE_PRESETS[text]
    width, height = text.split("x")
    return int(width), int(height)


def made_up(mix: Mix, *, rate: float, hours: float, swing: float, seed: int) -> Iterator[Arrival]:
    """Yield random jobs: `rate` a second on average, at noon `1 + swing` times as many, at midnight `1 - swing`.

    Jobs of priority `bulk` come at the same rate all day. The n-th caller submits a share that falls with n.
    """
    draw = random.Random(seed)
    kinds = mix.kinds()
    by_kind = {
        is_bulk: _weighted([each for each in kinds if (each[0][0] == "bulk") is is_bulk]) for is_bulk in (True, False)
    }
    total = sum(weight for _, weight in kinds)
    callers = _weighted([(f"caller-{number}", 1 / number) for number in range(1, mix.callers + 1)])
    for begin in range(0, round(hours * 3600), _CHUNK_SECONDS):
        length = min(_CHUNK_SECONDS, hours * 3600 - begin)
        day = 1 - swing * math.cos(2 * math.pi * begin / _DAY_SECONDS)
        chunk: list[tuple[float, Any]] = []
        for is_bulk, (values, weights) in by_kind.items():
            if not values:
                continue
            mean = rate * length * weights[-1] / total * (1 if is_bulk else day)
            drawn = draw.choices(values, cum_weights=weights, k=_count(draw, mean))
            chunk += [(begin + draw.random() * length, kind) for kind in drawn]
        chunk.sort(key=lambda pair: pair[0])
        names = draw.choices(callers[0], cum_weights=callers[1], k=len(chunk))
        for (at, (priority, shape)), caller in zip(chunk, names, strict=True):
            yield Arrival(at, caller, priority, shape)


def _count(draw: random.Random, mean: float) -> int:
    """Return a random number of events; with many, a Poisson distribution is a normal one."""
    if mean > 50:
        return max(0, round(draw.gauss(mean, math.sqrt(mean))))
    count, left = 0, draw.expovariate(1.0)
    while left < mean:
        count, left = count + 1, left + draw.expovariate(1.0)
    return count


def _weighted(pairs: Iterable[tuple[Any, float]]) -> tuple[Sequence[Any], list[float]]:
    """Return values, and their weights as running sums."""
    several = list(pairs)
    return [value for value, _ in several], list(accumulate(weight for _, weight in several))
