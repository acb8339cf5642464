"""Device and number format of a pipeline."""

from __future__ import annotations

import platform
from pathlib import Path

import torch

from farm.concurrency.retry import retrying
from farm.domain.errors import ConfigurationError, NoDevice
from farm.process.hardware import total_memory
from farm.weights.memory_plan import Memory, gigabytes

#: How long to wait for memory that others use, in seconds.
_FREE_SECONDS = 30.0


class MemoryInUse(ConfigurationError):
    """Others use the card's memory."""


def choose_device(setting: str | None) -> torch.device:
    """Return the device that `setting` (`cpu`, `cuda`, `cuda:1`, …) names; without one, the best available."""
    if setting is None:
        return _cuda("cuda", 0) if torch.cuda.is_available() else torch.device("cpu")
    kind, _, number = setting.partition(":")
    if setting == "cpu":
        return torch.device("cpu")
    if kind == "cuda" and (number.isdecimal() or setting == "cuda"):
        return _cuda(setting, int(number or 0))
    raise ConfigurationError(f'FARM_DEVICE="{setting}" is not a device: allowed are cpu, cuda, and cuda:0, cuda:1, ….')


def number_format(device: torch.device) -> torch.dtype:
    """Return the dtype of weights and activations: bf16 on CUDA, as FLUX.1 was trained; fp32 on the CPU."""
    return torch.bfloat16 if device.type == "cuda" else torch.float32


def allow_expandable_segments(device: torch.device) -> None:
    """Let CUDA's allocator grow its segments: memory that one size of image left is not lost to the next.

    Called before the first allocation, since segments that exist stay as they are.
    """
    if device.type == "cuda":
        # The name before torch 2.9, and since.
        set_options = getattr(torch._C, "_accelerator_setAllocatorSettings", None)
        (set_options or torch.cuda.memory._set_allocator_settings)("expandable_segments:True")


def memory_of(device: torch.device) -> Memory:
    """Return the total memory of a device: a card's own, or the machine's for the CPU."""
    value_bytes = number_format(device).itemsize
    if device.type == "cuda":
        card = torch.cuda.get_device_properties(device)
        return Memory(f"{device} ({card.name})", card.total_memory, value_bytes)
    # Where the system does not tell, nothing is refused.
    return Memory("this machine", total_memory() or 2**63, value_bytes, can_offload=False)


def await_free_memory(device: torch.device, wanted: int) -> None:
    """Wait until so many bytes of a card are free: a worker that was killed gives them back after a moment."""
    if device.type == "cuda":
        retrying(MemoryInUse, max_seconds=_FREE_SECONDS)(_refuse_occupied, device, wanted)


def _refuse_occupied(device: torch.device, wanted: int) -> None:
    free, total = torch.cuda.mem_get_info(device)
    if free < wanted:
        raise MemoryInUse(
            f"The weights need {gigabytes(wanted)} of {device}, and only {gigabytes(free)} of its {gigabytes(total)} "
            "are free; stop what else uses the card (nvidia-smi lists it)"
        )


def release_cached_memory() -> None:
    """Return memory that no tensor uses any more to the device."""
    torch.cuda.empty_cache()


def synchronize(device: torch.device) -> None:
    """Synchronize with CUDA, which only enqueues a step: progress and cancel would run ahead of it."""
    if device.type == "cuda":
        torch.cuda.current_stream(device).synchronize()


def device_name(device: torch.device) -> str:
    """Return the name of the GPU or processor: another one may choose other kernels, and so differ in the last bits."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    # Two workers in one farm may see different instruction sets on equal processors (virtual machines mask them).
    return f"{_processor()} {torch.backends.cpu.get_cpu_capability()}"


def _cuda(setting: str, wanted: int) -> torch.device:
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if wanted < count:
        return torch.device("cuda", wanted)
    there = ", ".join(["cpu", *(f"cuda:{n}" for n in range(count))])
    raise NoDevice(f'FARM_DEVICE="{setting}" is not there: this worker finds {there}.')


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()
