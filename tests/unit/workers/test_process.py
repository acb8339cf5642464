"""A worker's start: what it makes of an engine's errors."""

from __future__ import annotations

import pytest

from farm.domain.errors import ConfigurationError
from workers.process import refuse_without_memory


class OutOfMemoryError(RuntimeError):
    """Named like torch's own."""


def test_memory_that_runs_out_while_loading_is_refused_in_one_line() -> None:
    with pytest.raises(ConfigurationError) as refused, refuse_without_memory():
        raise OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nGPU 0 has 23.65 GiB")

    assert "\n" not in str(refused.value)
    assert "Tried to allocate 2.00 GiB. GPU 0 has 23.65 GiB" in str(refused.value)
    assert "docs/cards.md" in str(refused.value)


def test_other_errors_while_loading_are_restarted() -> None:
    with pytest.raises(RuntimeError, match="expected a tensor"), refuse_without_memory():
        raise RuntimeError("expected a tensor")
