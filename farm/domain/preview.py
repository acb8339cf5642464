"""A preview: a small image of how one that is being rendered looks so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preview:
    """A view of the `image`-th image of a job after `step` of its denoising steps; `url` is a data URI."""

    image: int
    step: int
    url: str
