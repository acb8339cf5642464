"""The size of an image that follows from its first input. Pure."""

from __future__ import annotations

import math

from farm.domain.catalogue import KONTEXT_SIZES, MAX_PIXELS, MAX_SIDE, MIN_SIDE, named, nearest_size
from farm.domain.request import Request

#: Tolerance for floating point, in pixels: a side that is meant to be whole is not cut by one.
_SLACK = 1e-6


def sized(request: Request, width: int, height: int) -> Request:
    """Return the request with its size, given the upright size of its first input in pixels."""
    match request.sizing:
        case "asked":
            return request
        case "input":
            settled = fitted(width, height)
        case "ratio":
            settled = nearest_size(width, height, named(request.model).sizes or KONTEXT_SIZES)
    return request.model_copy(update={"width": settled[0], "height": settled[1]})


def fitted(width: int, height: int) -> tuple[int, int]:
    """Return the same size, or the nearest of the same ratio that the limits allow.

    An image that is ten times as long as it is wide, or more, cannot keep its ratio: its short side is MIN_SIDE.
    """
    largest = min(MAX_SIDE / max(width, height), math.sqrt(MAX_PIXELS / (width * height)))
    smallest = MIN_SIDE / min(width, height)
    scale = min(max(1.0, smallest), largest)
    return _side(width * scale), _side(height * scale)


def _side(length: float) -> int:
    return min(MAX_SIDE, max(MIN_SIDE, int(length + _SLACK)))
