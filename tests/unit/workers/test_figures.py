"""The figures of a worker: of its process, and of a card that a stand-in for NVIDIA's library describes."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest

from farm.telemetry.worker_metrics import FIGURES
from workers.figures import Figures, card_uuid


class NvmlError(Exception):
    """Stands for `pynvml.NVMLError`."""


def nvml(**changes: object) -> ModuleType:
    """Return a stand-in for `pynvml`, with one card, which no test machine has."""

    def refuse(*_: object) -> None:
        raise NvmlError("Not Supported")

    module = ModuleType("pynvml")
    functions: dict[str, object] = {
        "NVMLError": NvmlError,
        "NVML_TEMPERATURE_GPU": 0,
        "NVML_MEMORY_ERROR_TYPE_UNCORRECTED": 1,
        "NVML_AGGREGATE_ECC": 1,
        "nvmlInit": lambda: None,
        "nvmlDeviceGetHandleByUUID": lambda uuid: f"card {uuid}",
        "nvmlDeviceGetUtilizationRates": lambda _card: SimpleNamespace(gpu=97),
        "nvmlDeviceGetMemoryInfo": lambda _card: SimpleNamespace(used=40e9, total=80e9),
        "nvmlDeviceGetPowerUsage": lambda _card: 350_500,
        "nvmlDeviceGetTotalEnergyConsumption": lambda _card: 1_234_000,
        "nvmlDeviceGetTemperature": lambda _card, _sensor: 71,
        "nvmlDeviceGetTotalEccErrors": refuse,
    }
    vars(module).update(functions | changes)
    return module


def test_the_figures_of_a_card_are_in_base_units(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml())

    found = {name: float(value) for name, value in Figures("GPU-1").read().items()}

    assert found.pop("resident_memory_bytes") > 1_000_000
    assert found == {
        "device_utilization_ratio": 0.97,
        "device_memory_used_bytes": 40e9,
        "device_memory_max_bytes": 80e9,
        "device_power_watts": 350.5,
        "device_energy_joules_total": 1234,
        "device_temperature_celsius": 71,
    }


def test_each_figure_is_declared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", nvml(nvmlDeviceGetTotalEccErrors=lambda *_: 0))
    figures = Figures("GPU-1")
    figures.record_start(load_seconds=1.5, warm_up_seconds=0.5)

    names = {family.name.removeprefix("farm_worker_") for family in FIGURES}

    assert figures.read().keys() | {"jobs", "busy_seconds_total"} | {name for name in names if "cache" in name} == names


def refuse_to_start() -> None:
    raise NvmlError("Driver Not Loaded")


@pytest.mark.parametrize("module", [None, nvml(nvmlInit=refuse_to_start)], ids=["no library", "no driver"])
def test_a_worker_without_the_library_has_the_others(
    monkeypatch: pytest.MonkeyPatch, module: ModuleType | None
) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", module)

    assert Figures("GPU-1").read().keys() == {"resident_memory_bytes"}


@pytest.mark.parametrize("device", ["cpu", "cuda:7"])
def test_a_device_that_is_no_card_of_this_machine_has_no_uuid(device: str) -> None:
    assert card_uuid(device) is None
