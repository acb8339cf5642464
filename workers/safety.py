"""The safety check of images before they are published. No torch here."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

from PIL import Image

from farm.domain.catalogue import SAFETY_THRESHOLDS
from farm.domain.errors import ConfigurationError
from farm.safety_checkers import FOLDERS, checker_folder
from farm.settings import Settings
from workers.pipelines.pipeline import MINIATURE, SIMULATED

#: Weights that the bundled checker knows (`Pipeline.weights`).
_BUNDLED = (MINIATURE, SIMULATED)


class Checker(Protocol):
    """Flags images that may not be published."""

    def check(self, image: Image.Image, tolerance: int) -> bool:
        """Return True if the image is flagged at this tolerance (`SAFETY_THRESHOLDS`).

        Raises when it could not be checked: the job fails then, unpublished.
        """

    def use_card(self, device: str | None) -> None:
        """Move to the card that FARM_DEVICE names, if it has room; called once, when the pipeline is loaded there."""


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

    def use_card(self, device: str | None) -> None:
        """Stay on the CPU, where this small network takes 4 ms."""


def _unsafe_probability_of() -> Callable[[Image.Image], float]:
    """Return the network, imported here: only a worker that loads the miniature has torch for it."""
    from workers.checkers.safety_classifier import SafetyClassifier
    from workers.pipelines import miniature

    return SafetyClassifier.load(miniature.checker()).unsafe_probability


def _never(_image: Image.Image) -> float:
    return 0.0


def checker_for(settings: Settings, weights: str) -> Checker | None:
    """Return the checker that `FARM_SAFETY` names beside these weights; None if checking is turned off."""
    setting = settings.safety
    if setting is None and settings.safety_dir:
        raise ConfigurationError(f"FARM_SAFETY_DIR needs FARM_SAFETY; set it to {' or '.join(FOLDERS)}")
    if setting == "off":
        return None
    if setting in FOLDERS:
        return _checker_with_weights(setting, settings)
    if setting == "bundled" or weights in _BUNDLED:
        return BundledChecker(weights)
    raise ConfigurationError(f'FARM_SAFETY must be set beside the weights "{weights}"; off renders without checks.')


def _checker_with_weights(kind: str, settings: Settings) -> Checker:
    """Load a checker, imported here: only a worker that has one needs torch for it."""
    folder = checker_folder(kind, settings.safety_dir, settings.safety_labels)
    if kind == "clip":
        from workers.checkers.clip import ConceptChecker

        return ConceptChecker(folder)
    from workers.checkers.vit import ImageClassifier

    return ImageClassifier(folder)
