"""Fixtures of tests that compute images."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from workers.pipelines.flux import FluxModels


@pytest.fixture
def parts() -> Any:
    """Return the miniature as diffusers loads it."""
    from tests.unit.pipelines.denoising import miniature_parts

    return miniature_parts()


@pytest.fixture
def pipeline(parts: Any) -> FluxModels:
    """Return a pipeline of these parts."""
    from tests.unit.pipelines.denoising import pipeline_of

    return pipeline_of(parts)
