"""Candidates for the levels of acceleration: masks and orders worth a measurement."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from math import ceil

from farm.domain.acceleration import BUNDLED, MIN_FULL_STEPS, Level
from farm.domain.catalogue import Acceleration

#: The largest share of full steps that a level may have.
SHARES: dict[Acceleration, float] = {"regular": 14 / 28, "high": 10 / 28}


@dataclass(frozen=True, slots=True)
class Candidate:
    """A mask, extrapolated by polynomials of degree `order`."""

    mask: str
    order: int

    @property
    def full_steps(self) -> int:
        return self.mask.count("1")

    @property
    def level(self) -> Level:
        return Level(order=self.order, masks={len(self.mask): self.mask})

    def may_be(self, acceleration: Acceleration) -> bool:
        """Return True if the level may have so many full steps."""
        return self.full_steps <= allowed_steps(acceleration, len(self.mask))


def allowed_steps(acceleration: Acceleration, steps: int) -> int:
    """Return how many of so many steps a level may compute in full."""
    return max(MIN_FULL_STEPS, int(steps * SHARES[acceleration] + 0.5))


def candidates(steps: int, orders: Sequence[int], further: Sequence[str] = ()) -> list[Candidate]:
    """Return the candidates for so many steps, the cheapest last; `further` masks are among them."""
    masks = {mask for mask in (*_masks(steps), *further) if mask.count("1") < steps}
    return [
        Candidate(mask, order)
        for mask in sorted(masks, key=lambda mask: (mask.count("1"), mask), reverse=True)
        for order in orders
    ]


def _masks(steps: int) -> Iterator[str]:
    yield BUNDLED.regular.mask(steps)
    yield BUNDLED.high.mask(steps)
    for acceleration in SHARES:
        for first in (2, 4):
            yield _even(steps, allowed_steps(acceleration, steps), first)
    yield _with_full_ends(steps, ends=4, every=2)
    yield _with_full_ends(steps, ends=3, every=3)


def _even(steps: int, full: int, first: int) -> str:
    """Return a mask whose first steps are full, and the rest of the full steps evenly spaced up to the last."""
    beginning = min(first, full - 1, steps)
    rest = full - beginning
    places = {beginning - 1 + ceil((steps - beginning) * number / rest) for number in range(1, rest + 1)}
    return "".join("1" if step < beginning or step in places else "0" for step in range(steps))


def _with_full_ends(steps: int, ends: int, every: int) -> str:
    """Return a mask with so many full steps at both ends, and between them each so many-th, as Replicate has them."""
    return "".join(
        "1" if step < ends or step >= steps - ends or (step - ends + 1) % every == 0 else "0" for step in range(steps)
    )
