"""Fixtures of tests that compute pictures."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the miniature and that of Kontext in it."""
    from workers.pipelines.miniature import ensure_kontext, ensure_miniature

    folder = tmp_path_factory.mktemp("models")
    ensure_miniature(folder)
    ensure_kontext(folder)
    return folder


@pytest.fixture
def one_thread() -> Iterator[None]:
    """As the miniature is loaded for: threads that wait for each other make slow tests of it on a busy machine."""
    import torch

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
