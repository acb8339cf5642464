"""The device that a setting selects."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
import torch

from farm.domain.errors import ConfigurationError
from farm.weights.memory_plan import Memory
from workers.pipelines import device
from workers.pipelines.device import (
    allow_expandable_segments,
    await_free_memory,
    choose_device,
    device_name,
    memory_of,
    number_format,
)

CARD = torch.device("cuda", 0)


def test_names_a_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_takes_the_best_device_without_a_setting() -> None:
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("setting", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CPU", "cuda0"])
def test_an_unknown_device_is_refused(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed are cpu, cuda"):
        choose_device(setting)


def test_refuses_a_card_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match='"cuda:99" is not there: this worker finds cpu'):
        choose_device("cuda:99")


def test_computes_in_fp32_on_the_cpu_and_in_bf16_on_cuda() -> None:
    assert number_format(torch.device("cpu")) == torch.float32
    assert number_format(CARD) == torch.bfloat16


def test_tells_the_instruction_set_of_the_cpu() -> None:
    assert torch.backends.cpu.get_cpu_capability() in device_name(torch.device("cpu"))


def test_memory_of_a_card_grows_in_segments() -> None:
    before = torch._C._accelerator_getAllocatorSettings()

    allow_expandable_segments(torch.device("cpu"))
    assert torch._C._accelerator_getAllocatorSettings() == before
    allow_expandable_segments(CARD)

    assert torch._C._accelerator_getAllocatorSettings() == "expandable_segments:True"


@pytest.fixture
def busy_card(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Pretend to have a card of 24 GB; the list has the bytes that are free at each look, the last one for good."""
    free = [1_000_000_000]
    described = SimpleNamespace(name="a card", total_memory=24_000_000_000)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda _: described)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (free.pop(0) if free[1:] else free[0], 24_000_000_000))
    return free


@pytest.mark.usefixtures("busy_card")
def test_the_memory_of_a_card_is_its_total_whatever_uses_it() -> None:
    """The plan of a worker, and so its build, may not depend on the hour."""
    assert memory_of(CARD) == Memory("cuda:0 (a card)", 24_000_000_000, value_bytes=2)


def test_memory_that_others_use_is_waited_for_and_then_refused_in_one_line(
    busy_card: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    busy_card.append(21_000_000_000)
    await_free_memory(CARD, 20_000_000_000)

    monkeypatch.setattr(device, "_FREE_SECONDS", 0.01)
    with pytest.raises(
        ConfigurationError, match=r"need 22\.0 GB of cuda:0, and only 21\.0 GB of its 24\.0 GB"
    ) as refused:
        await_free_memory(CARD, 22_000_000_000)
    assert "\n" not in str(refused.value)
