"""The lean forward of the transformer: equal to diffusers' own bit for bit, and not used where it is not."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch

from tests.unit.pipelines.denoising import as_diffusers
from workers.pipelines import lean_transformer
from workers.pipelines.attention import use_attention
from workers.pipelines.compilation import CompiledForward
from workers.pipelines.engine import attention_backend
from workers.pipelines.flux import ATTENTION
from workers.pipelines.latents import Size, positions
from workers.pipelines.lean_transformer import LeanForward, use_lean_forward
from workers.pipelines.offload import offload_transformer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
SMALL = Size(256, 320, 64)


@pytest.fixture(autouse=True)
def as_pipelines_compute() -> Iterator[None]:
    """Pin attention, as pipelines do: what one test sets holds for all transformers that say nothing of it."""
    with torch.inference_mode(), attention_backend(ATTENTION):
        yield


def inputs_of(transformer: Any, images: int = 1, size: Size = SMALL, dtype: Any = torch.float32) -> Any:
    """Return random inputs of a forward."""
    generator, config = torch.Generator().manual_seed(7), transformer.config
    shapes = {
        "hidden_states": (images, size.rows * size.columns, config.in_channels),
        "encoder_hidden_states": (images, 32, config.joint_attention_dim),
        "pooled_projections": (images, config.pooled_projection_dim),
    }
    random = {name: torch.randn(shape, generator=generator).to(dtype) for name, shape in shapes.items()}
    return random | {
        "timestep": torch.linspace(1.0, 0.03, images).to(dtype),
        "guidance": torch.linspace(1.0, 20.0, images),
        "txt_ids": torch.zeros(32, 3, dtype=dtype),
        "img_ids": positions(size).to(dtype),
        "return_dict": False,
    }


def is_lean(transformer: Any, monkeypatch: pytest.MonkeyPatch, **inputs: Any) -> bool:
    """Return True if a forward does not go through diffusers' own."""
    calls: list[int] = []
    monkeypatch.setattr(transformer.forward, "_plain", lambda **_: calls.append(1))
    transformer(**(inputs or inputs_of(transformer)))
    return not calls


@pytest.mark.parametrize(
    ("images", "width", "height"),
    [(1, 512, 512), (1, 1024, 768), (1, 256, 256), (1, 64, 64), (2, 320, 192), (4, 512, 512)],
)
def test_computes_what_diffusers_computes(parts: Any, images: int, width: int, height: int) -> None:
    plain = as_diffusers(parts).transformer
    inputs = inputs_of(plain, images, Size(height, width, 64))

    use_lean_forward(parts.transformer)

    for _ in range(2):  # with the rotation just made, and with the one that is kept
        assert torch.equal(parts.transformer(**inputs)[0], plain(**inputs)[0])


def test_positions_of_each_forward_count(parts: Any) -> None:
    use_lean_forward(parts.transformer)
    inputs = inputs_of(parts.transformer)
    turned = inputs | {"img_ids": positions(Size(320, 256, 64)).to(torch.float32)}
    assert turned["img_ids"].shape == inputs["img_ids"].shape

    one, other, again = (parts.transformer(**each)[0] for each in (inputs, turned, inputs))

    assert torch.equal(one, again)
    assert not torch.equal(one, other)
    assert torch.equal(other, as_diffusers(parts).transformer(**turned)[0])


def test_one_network_is_not_made_lean_twice(parts: Any) -> None:
    use_lean_forward(parts.transformer)
    forward = parts.transformer.forward

    use_lean_forward(parts.transformer)

    assert parts.transformer.forward is forward
    assert isinstance(forward, LeanForward)


def compiled(transformer: Any) -> None:
    block = transformer.single_transformer_blocks[-1]
    block.forward = CompiledForward(block.forward, block.forward, lambda _: True)


class OtherLinear(torch.nn.Linear):
    """A layer that keeps its weight in another format."""


def in_another_format(transformer: Any) -> None:
    for block in transformer.transformer_blocks:
        block.attn.to_q.__class__ = OtherLinear


CHANGES: list[Callable[[Any], None]] = [
    compiled,
    in_another_format,
    lambda transformer: use_attention(transformer, "math", CPU, torch.float32),
    lambda transformer: offload_transformer(transformer, CPU),
]


@pytest.mark.parametrize("change", CHANGES, ids=["compiled", "format", "attention", "offloaded"])
def test_a_network_that_is_computed_otherwise_keeps_its_forward(
    parts: Any, monkeypatch: pytest.MonkeyPatch, change: Callable[[Any], None]
) -> None:
    change(parts.transformer)

    use_lean_forward(parts.transformer)

    assert not is_lean(parts.transformer, monkeypatch)


def test_torchs_own_attention_is_lean_by_its_name(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    use_attention(parts.transformer, "native", CPU, torch.float32)

    use_lean_forward(parts.transformer)

    assert is_lean(parts.transformer, monkeypatch)


def test_bf16_keeps_its_forward(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    parts.transformer.to(torch.bfloat16)
    use_lean_forward(parts.transformer)

    assert not is_lean(parts.transformer, monkeypatch, **inputs_of(parts.transformer, dtype=torch.bfloat16))


def test_rotations_of_many_sizes_are_not_kept_for_ever(parts: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lean_transformer, "_ROTATIONS_KEPT", 2)
    use_lean_forward(parts.transformer)

    for side in (64, 128, 192):
        parts.transformer(**inputs_of(parts.transformer, size=Size(side, side, 64)))

    assert parts.transformer.forward._rotation.cache_info().currsize == 2
