"""The files of deploy/, checked as far as that is possible without what they are for."""

from __future__ import annotations

from pathlib import Path

DEPLOY = Path(__file__).parents[3] / "deploy"
