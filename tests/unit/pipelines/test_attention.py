"""Attention backends: those of torch agree, those that do not work here are refused, and nothing is downloaded."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

import pytest
import torch

from farm.domain.catalogue import Weights
from farm.domain.errors import ConfigurationError
from farm.domain.request import ImageRequest
from farm.settings import AttentionName
from tests.unit.pipelines.denoising import pipeline_of, record, render
from workers.pipelines.attention import BACKENDS, use_attention
from workers.pipelines.execution import Execution

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def native_afterwards(parts: Any) -> Iterator[None]:
    """Choose no backend for the tests that follow: the network is theirs, too."""
    yield
    use_attention(parts.transformer, "native", CPU, torch.float32)


def velocities(parts: Any, name: AttentionName) -> torch.Tensor:
    use_attention(parts.transformer, name, CPU, torch.float32)
    steps: list[Any] = []
    done = record(parts.transformer, steps)
    render(pipeline_of(parts), ImageRequest("srpo", "a red star", 256, 256, 2, 4.5, seed=1))
    done()
    return torch.stack([step["output"] for step in steps])


def test_each_name_of_the_setting_has_a_backend_that_is_not_downloaded() -> None:
    assert set(BACKENDS) == set(get_args(AttentionName))
    assert not [backend for backend in BACKENDS.values() if "hub" in backend]


@pytest.mark.usefixtures("one_thread")
def test_a_backend_is_used_and_computes_the_same_but_for_the_last_bits(parts: Any) -> None:
    native, math = velocities(parts, "native"), velocities(parts, "math")

    assert not torch.equal(native, math)
    assert torch.allclose(native, math, atol=1e-4)


@pytest.mark.parametrize("name", ["cudnn", "fa3"])
def test_a_backend_that_does_not_work_here_is_refused_in_one_line(parts: Any, name: AttentionName) -> None:
    with pytest.raises(ConfigurationError, match=f"^FARM_ATTENTION={name} does not work on cpu in float32") as refused:
        use_attention(parts.transformer, name, CPU, torch.float32)

    assert "\n" not in str(refused.value)


def test_a_worker_computes_with_the_backend_of_its_setting_or_does_not_start(parts: Any) -> None:
    blocks = [*parts.transformer.transformer_blocks, *parts.transformer.single_transformer_blocks]

    Execution(attention="math").prepare({Weights.SRPO: parts}, CPU, torch.float32)

    assert {block.attn.processor._attention_backend for block in blocks} == {BACKENDS["math"]}
    with pytest.raises(ConfigurationError, match="FARM_ATTENTION=fa3 does not work on cpu"):
        Execution(attention="fa3").prepare({Weights.SRPO: parts}, CPU, torch.float32)
