"""A preview: a small image of how one that is being rendered looks so far."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Preview:
    """How the `image`-th image of a job looks after `step` of its denoising steps; `url` is a data URI."""

    image: int
    step: int
    url: str
