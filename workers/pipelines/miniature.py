"""The miniature: a small FLUX, trained on drawn shapes, in the files of FLUX.1-dev; it comes with the farm.

It runs through the same code as real weights, on any machine, within a second or two. It renders the shapes that the
program in `miniature/` draws, and nothing else: it shows that the farm works, not what SRPO can do.
"""

from __future__ import annotations

from pathlib import Path

#: Laid out as FLUX.1-dev's folder; beside its parts lies the checker of its images.
HOME = Path(__file__).with_name("weights")


def kontext(home: Path = HOME) -> Path:
    """Return the folder of Kontext's own transformer, which exists only if one was trained; other parts are shared."""
    return home / "kontext"


def checker(home: Path = HOME) -> Path:
    """Return the weights file of the safety classifier (`safety_classifier.SafetyClassifier`)."""
    return home / "checker.safetensors"
