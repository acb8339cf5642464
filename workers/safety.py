"""The safety check of images before they are published. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from PIL import Image

from farm.domain.catalogue import SAFETY_THRESHOLDS
from farm.domain.errors import ConfigurationError
from workers.pipelines.pipeline import MINIATURE, SIMULATED

#: Weights that the bundled checker knows (`Pipeline.weights`).
_BUNDLED = (MINIATURE, SIMULATED)
#: Checkers with weights of their own, which are reserved names.
_PLANNED = ("clip", "vit")


class Checker(Protocol):
    """Flags images that may not be published."""

    def check(self, image: Image.Image, tolerance: int) -> bool:
        """Return True if the image is flagged at this tolerance (`SAFETY_THRESHOLDS`).

        Raises when it could not be checked: the job fails then, unpublished.
        """


class BundledChecker:
    """The checker of the miniature's images: a small network finds the shape that counts as forbidden.

    The simulated pipeline renders no shapes, so nothing of its is ever flagged. Of any other image this checker knows
    nothing, and it refuses to start beside weights that render them.
    """

    def __init__(self, weights: str) -> None:
        """Load the checker for `weights`, as the pipeline names them (`Pipeline.weights`)."""
        if weights not in _BUNDLED:
            raise ConfigurationError(
                f'FARM_SAFETY="bundled" checks the miniature\'s own images only, and these weights are "{weights}".'
            )
        self._unsafe_probability = _unsafe_probability_of() if weights == MINIATURE else _never

    def check(self, image: Image.Image, tolerance: int) -> bool:
        return self._unsafe_probability(image) >= SAFETY_THRESHOLDS[tolerance]


def _unsafe_probability_of() -> Callable[[Image.Image], float]:
    """Return the network, imported here: only a worker that loads the miniature has torch for it."""
    from workers.pipelines import miniature
    from workers.pipelines.safety_classifier import SafetyClassifier

    return SafetyClassifier.load(miniature.checker()).unsafe_probability


def _never(_image: Image.Image) -> float:
    return 0.0


def checker_for(setting: str | None, weights: str) -> Checker | None:
    """Return the checker that `FARM_SAFETY` names beside these weights; None if checking is turned off."""
    if setting in _PLANNED:
        raise ConfigurationError(f'FARM_SAFETY="{setting}" is not there yet; FARM_SAFETY=off renders without checks.')
    if setting == "off":
        return None
    if setting == "bundled" or (setting is None and weights in _BUNDLED):
        return BundledChecker(weights)
    if setting is None:
        raise ConfigurationError(f'FARM_SAFETY must be set beside the weights "{weights}"; off means no checks.')
    raise ConfigurationError(f'FARM_SAFETY="{setting}" is unknown: allowed are bundled, clip, vit, off.')
