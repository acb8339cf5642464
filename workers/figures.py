"""Figures of a worker's process and of its graphics card, for metrics. The names are those of `worker_metrics`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import structlog

from farm import clock
from farm.process.hardware import cards

#: For how long figures are reused, in seconds: the driver takes milliseconds for them.
_REUSED_SECONDS = 5.0
_MEMORY = Path("/proc/self/statm")

_log = structlog.get_logger(__name__)


class Figures:
    """The figures that a worker sends with its heartbeat, as numbers in text."""

    def __init__(self, card: str | None) -> None:
        """Measure this process, and the card with this UUID, if there is one."""
        self._card = CardFigures(card)
        self._start: dict[str, str] = {}

    def record_start(self, *, load_seconds: float, warm_up_seconds: float) -> None:
        """Record how long loading and warming up took."""
        self._start = {"load_seconds": f"{load_seconds:.3f}", "warm_up_seconds": f"{warm_up_seconds:.3f}"}

    def read(self) -> dict[str, str]:
        """Return the figures as they are now."""
        return {"resident_memory_bytes": str(resident_memory()), **self._start, **self._card.read()}


class CardFigures:
    """The figures of one card, from NVIDIA's management library: none where it, or the extra `nvidia`, is missing."""

    def __init__(self, uuid: str | None) -> None:
        """Read the card with this UUID. None: there is no card, and there are no figures."""
        self._nvml: Any
        self._card: Any
        self._nvml, self._card = _opened(uuid) if uuid else (None, None)
        self._read_at = -_REUSED_SECONDS
        self._figures: dict[str, str] = {}

    def read(self) -> dict[str, str]:
        """Return the figures that this card has, as numbers in text."""
        if self._nvml and clock.monotonic() - self._read_at >= _REUSED_SECONDS:
            self._read_at = clock.monotonic()
            self._figures = {name: f"{value:.6g}" for name, value in _figures(self._nvml, self._card)}
        return self._figures


def resident_memory() -> int:
    """Return the bytes of memory that this process takes."""
    return int(_MEMORY.read_text("utf-8").split()[1]) * os.sysconf("SC_PAGE_SIZE")


def card_uuid(device: str | None) -> str | None:
    """Return the UUID of the card that the setting FARM_DEVICE means; None for the processor."""
    kind, _, number = (device or "cuda").partition(":")
    if kind != "cuda":
        return None
    return next((card.uuid for card in cards() if card.number == int(number or 0)), None)


def _opened(uuid: str) -> tuple[Any, Any]:
    """Return the library and its handle of the card; None and None if either is missing."""
    try:
        import pynvml

        pynvml.nvmlInit()
        return pynvml, pynvml.nvmlDeviceGetHandleByUUID(uuid)
    except ImportError:
        _log.info("no figures of the card: install srpo-farm[nvidia]")
    except pynvml.NVMLError as error:
        _log.warning("no figures of the card", error=str(error))
    return None, None


def _figures(nvml: Any, card: Any) -> Iterator[tuple[str, float]]:
    """Yield what the card reports; parts of cards (MIG), and older ones, report less."""
    with suppress(nvml.NVMLError):
        yield "device_utilization_ratio", nvml.nvmlDeviceGetUtilizationRates(card).gpu / 100
    with suppress(nvml.NVMLError):
        memory = nvml.nvmlDeviceGetMemoryInfo(card)
        yield "device_memory_used_bytes", memory.used
        yield "device_memory_max_bytes", memory.total
    with suppress(nvml.NVMLError):
        yield "device_power_watts", nvml.nvmlDeviceGetPowerUsage(card) / 1000
    with suppress(nvml.NVMLError):
        yield "device_energy_joules_total", nvml.nvmlDeviceGetTotalEnergyConsumption(card) / 1000
    with suppress(nvml.NVMLError):
        yield "device_temperature_celsius", nvml.nvmlDeviceGetTemperature(card, nvml.NVML_TEMPERATURE_GPU)
    with suppress(nvml.NVMLError):
        kinds = (nvml.NVML_MEMORY_ERROR_TYPE_UNCORRECTED, nvml.NVML_AGGREGATE_ECC)
        yield "device_memory_errors_total", nvml.nvmlDeviceGetTotalEccErrors(card, *kinds)
