"""The work that waits for each model, and how long it will take, learned from the jobs that were completed last."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farm.domain.catalogue import MODELS, Model
from farm.domain.measures import MILLIONTHS
from farm.domain.scheduling import PRIORITIES, pace_of
from farm.jobstore.reading import Reading

#: Cost of an image that is not prepared yet: a megapixel at the model's own number of steps.
_UNPREPARED_MEGAPIXELS = 1.0


@dataclass(frozen=True, slots=True)
class Backlog:
    """The work for one model that is accepted and has not ended.

    `waiting`: jobs that have not started, unprepared ones included. `work_seconds`: how long one worker would take for
    all that may be rendered now, what is being rendered included; `paused_seconds`: for what waits for the end of a
    pause, for which no worker is needed.
    """

    model: str
    waiting_jobs: int
    waiting_images: int
    work_seconds: float
    paused_seconds: float
    oldest_seconds: float


def backlogs(reading: Reading) -> list[Backlog]:
    """Return the backlog of each model of the catalogue."""
    work, pace = reading.work, reading.pace
    return [_backlog(model, reading, work, pace_of(model.name, pace)) for model in MODELS]


def _backlog(model: Model, reading: Reading, work: Mapping[str, int], pace: float) -> Backlog:
    unprepared_images = work.get(f"unprepared:{model.name}:images", 0)
    waiting, rendering = (work.get(f"{place}:{model.name}:cost", 0) / MILLIONTHS for place in ("waiting", "processing"))
    unprepared = unprepared_images * model.parameters.steps.default * _UNPREPARED_MEGAPIXELS
    paused = waiting * _paused_share(model.name, reading) + unprepared * reading.is_model_paused(model.name)
    return Backlog(
        model.name,
        sum(reading.waiting(model.name, priority) for priority in PRIORITIES) + reading.unprepared(model.name),
        work.get(f"waiting:{model.name}:images", 0) + unprepared_images,
        round((rendering + waiting + unprepared - paused) * pace, 3),
        round(paused * pace, 3),
        max(reading.oldest_seconds(model.name, priority) for priority in ("", *PRIORITIES)),
    )


def _paused_share(model: str, reading: Reading) -> float:
    """Return the share of a model's waiting jobs that are paused, with the whole farm or a group."""
    waiting = sum(reading.waiting(model, priority) for priority in PRIORITIES)
    return sum(reading.paused_jobs(model, priority) for priority in PRIORITIES) / waiting if waiting else 0.0
