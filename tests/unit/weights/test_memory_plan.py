"""The memory plan of each card, its refusals, and whether its reserves cover what FLUX.1 computes."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from farm.domain.catalogue import MAX_PIXELS
from farm.domain.errors import ConfigurationError
from farm.weights import memory_plan
from farm.weights.fp8 import may_be_fp8
from farm.weights.memory_plan import AUTO, Choice, Footprint, Memory, MemoryPlan, fits_with_copy, needed, plan_for
from workers.pipelines.engine import AutoencoderKL, FluxTransformer2DModel

#: Values of FLUX.1-dev's parts; SRPO's transformer has the same.
SRPO = Footprint(blocks=8_606_711_808, others=3_294_696_512, text_encoder=4_762_310_656, small=206_880_163)
BOTH = replace(SRPO, blocks=2 * SRPO.blocks, others=2 * SRPO.others, has_kontext=True)
Q8 = replace(SRPO, blocks=0, others=0, stored_bytes=12_700_000_000)
Q4 = replace(SRPO, blocks=0, others=0, stored_bytes=6_800_000_000)


def card(gigabytes: float) -> Memory:
    """Return a card's memory; cards are sold by rounder numbers than programs can use."""
    return Memory("cuda:0 (a card)", int(gigabytes * 1e9))


@pytest.mark.parametrize(
    ("footprint", "gigabytes", "plan"),
    [
        (SRPO, 150, MemoryPlan()),
        (SRPO, 47.6, MemoryPlan()),
        (SRPO, 42.3, MemoryPlan(offload="text")),
        (SRPO, 33.6, MemoryPlan(offload="text", tile=1024)),
        (SRPO, 25.3, MemoryPlan("fp8", "text", 1024)),
        (SRPO, 23.6, MemoryPlan("fp8", "text", 1024)),
        (BOTH, 85, MemoryPlan()),
        (BOTH, 47.6, MemoryPlan("fp8", "text")),
        (Q8, 25.3, MemoryPlan(offload="text", tile=1024)),
        (Q8, 16.8, MemoryPlan(offload="text", tile=512)),
        (Q4, 12.5, MemoryPlan(offload="text", tile=1024)),
    ],
)
def test_the_best_plan_that_fits_is_taken(footprint: Footprint, gigabytes: float, plan: MemoryPlan) -> None:
    assert plan_for(footprint, card(gigabytes), AUTO) == plan


@pytest.mark.parametrize(
    ("choice", "plan"),
    [
        (Choice("fp8", "auto"), MemoryPlan("fp8")),
        (Choice("none", "text"), MemoryPlan(offload="text")),
        (Choice("auto", "all"), MemoryPlan(offload="all")),
    ],
)
def test_the_operators_choice_holds_on_a_large_card(choice: Choice, plan: MemoryPlan) -> None:
    assert plan_for(SRPO, card(150), choice) == plan


@pytest.mark.parametrize(
    ("gigabytes", "choice", "words"),
    [
        (
            25.3,
            Choice("none", "none"),
            ["need 36.0 GB", "has 25.3 GB; FARM_QUANTIZE=auto FARM_OFFLOAD=auto needs 20.8"],
        ),
        (33.6, Choice("none", "none"), ["FARM_QUANTIZE=auto FARM_OFFLOAD=none needs 30.3 GB"]),
        (33.6, Choice("none", "none"), ["(transformer in fp8, VAE in tiles of 1024 px)"]),
        (12.5, AUTO, ["FARM_QUANTIZE=auto FARM_OFFLOAD=all needs"]),
        (4.0, AUTO, ["docs/cards.md", "a card of 4.6 GB or more"]),
    ],
)
def test_weights_that_do_not_fit_are_refused_with_the_setting_that_helps(
    gigabytes: float, choice: Choice, words: list[str]
) -> None:
    with pytest.raises(ConfigurationError) as refused:
        plan_for(SRPO, card(gigabytes), choice)

    assert "\n" not in str(refused.value)
    assert [word for word in [*words, "cuda:0 (a card)"] if word not in str(refused.value)] == []


@pytest.mark.parametrize(
    ("footprint", "gigabytes", "plan", "fits"),
    [
        (SRPO, 56, MemoryPlan(), True),  # 46.5 GB, and 8.6 GB for the copy
        (SRPO, 54, MemoryPlan(), False),
        (SRPO, 150, MemoryPlan("fp8"), False),
        (SRPO, 150, MemoryPlan(offload="all"), False),
        (Q8, 150, MemoryPlan(), False),
    ],
)
def test_a_copy_in_fp8_stands_beside_full_weights_on_a_card_with_memory_for_both(
    footprint: Footprint, gigabytes: float, plan: MemoryPlan, fits: bool
) -> None:
    assert fits_with_copy(footprint, plan, card(gigabytes)) is fits


def test_the_cpu_offloads_nothing_to_itself() -> None:
    memory = Memory("this machine", 60_000_000_000, value_bytes=4, can_offload=False)

    assert plan_for(SRPO, memory, Choice("auto", "all")) == MemoryPlan("fp8", tile=1024)


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch's own
    """Counts the bytes of the tensors that exist at once; on the meta device they take none."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak = self._live = 0
        self._sizes: dict[int, int] = {}

    def __torch_dispatch__(
        self, function: Callable[..., Any], types: Any, arguments: Any = (), options: Any = None
    ) -> Any:
        result = function(*arguments, **(options or {}))
        for tensor in tree_leaves(result):
            if isinstance(tensor, torch.Tensor):
                self._record(tensor.untyped_storage())
        return result

    def _record(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._sizes:
            self._sizes[key] = storage.nbytes()
            self._live += storage.nbytes()
            self.peak = max(self.peak, self._live)
            weakref.finalize(storage, self._forget, key)

    def _forget(self, key: int) -> None:
        self._live -= self._sizes.pop(key)


def peak_of(compute: Callable[[], object]) -> int:
    live = LiveBytes()
    with torch.inference_mode(), live:
        compute()
    return live.peak


def empty(*shape: int) -> torch.Tensor:
    return torch.empty(*shape, device="meta", dtype=torch.bfloat16)


@pytest.fixture(scope="module")
def transformer() -> FluxTransformer2DModel:
    """Return FLUX.1-dev's transformer, without weights."""
    with torch.device("meta"):
        return FluxTransformer2DModel(guidance_embeds=True).to(torch.bfloat16).eval()


def test_fp8_halves_the_blocks(transformer: FluxTransformer2DModel) -> None:
    sizes = {True: 0, False: 0}
    for name, tensor in transformer.named_parameters():
        sizes[may_be_fp8(name, tensor.dim())] += tensor.numel()

    assert (sizes[True], sizes[False]) == (SRPO.blocks, SRPO.others)
    alone = Footprint(SRPO.blocks, SRPO.others)
    difference = needed(alone, MemoryPlan(), 2) - needed(alone, MemoryPlan("fp8"), 2)
    assert difference == SRPO.blocks
    assert memory_plan.resident(alone, MemoryPlan("fp8"), 2) == pytest.approx(15.2e9, rel=0.01)


def test_the_reserve_covers_the_steps_of_the_largest_image(transformer: FluxTransformer2DModel) -> None:
    tokens = MAX_PIXELS // 256
    peak = peak_of(
        lambda: transformer(
            hidden_states=empty(1, tokens, 64),
            timestep=empty(1),
            guidance=torch.empty(1, device="meta"),
            pooled_projections=empty(1, 768),
            encoder_hidden_states=empty(1, 512, 4096),
            txt_ids=torch.empty(512, 3, device="meta"),
            img_ids=torch.empty(tokens, 3, device="meta"),
            return_dict=False,
        )
    )

    assert 0.7 < peak / memory_plan._denoising(SRPO, 2) < 0.8


@pytest.mark.parametrize("tile", [None, 1024])
def test_the_reserve_covers_the_vae(tile: int | None) -> None:
    with torch.device("meta"):
        vae = AutoencoderKL(
            down_block_types=["DownEncoderBlock2D"] * 4,
            up_block_types=["UpDecoderBlock2D"] * 4,
            block_out_channels=[128, 256, 512, 512],
            layers_per_block=2,
            latent_channels=16,
            use_quant_conv=False,
            use_post_quant_conv=False,
        ).to(torch.bfloat16)
    side = tile or 1664  # 2.8 megapixels
    decoding = peak_of(lambda: vae.decode(empty(1, 16, side // 8, side // 8), return_dict=False))
    encoding = peak_of(lambda: vae.encode(empty(1, 3, side, side)).latent_dist.mode())

    # What the convolutions' kernels need beside these tensors is known from cards only.
    assert decoding > encoding
    assert 0.3 < decoding / memory_plan._coding(tile, 2) < 0.4
