"""The device that a setting selects."""

from __future__ import annotations

import pytest
import torch

from farm.domain.errors import ConfigurationError
from workers.pipelines.device import allow_expandable_segments, choose_device, device_name, number_format


def test_names_a_device() -> None:
    assert choose_device("cpu") == torch.device("cpu")


def test_takes_the_best_device_without_a_setting() -> None:
    assert choose_device(None).type == ("cuda" if torch.cuda.is_available() else "cpu")


@pytest.mark.parametrize("setting", ["", "gpu", "cuda:", "cuda:x", "cuda:-1", "cpu:0", "CPU", "cuda0"])
def test_refuses_what_is_no_device(setting: str) -> None:
    with pytest.raises(ConfigurationError, match="allowed are cpu, cuda"):
        choose_device(setting)


def test_refuses_a_card_that_is_not_there() -> None:
    with pytest.raises(ConfigurationError, match='"cuda:99" is not there: this worker finds cpu'):
        choose_device("cuda:99")


def test_computes_in_fp32_on_the_cpu_and_in_bf16_on_cuda() -> None:
    assert number_format(torch.device("cpu")) == torch.float32
    assert number_format(torch.device("cuda", 0)) == torch.bfloat16


def test_tells_the_instruction_set_of_the_cpu() -> None:
    assert torch.backends.cpu.get_cpu_capability() in device_name(torch.device("cpu"))


def test_memory_of_a_card_grows_in_segments() -> None:
    before = torch._C._accelerator_getAllocatorSettings()

    allow_expandable_segments(torch.device("cpu"))
    assert torch._C._accelerator_getAllocatorSettings() == before
    allow_expandable_segments(torch.device("cuda", 0))

    assert torch._C._accelerator_getAllocatorSettings() == "expandable_segments:True"
