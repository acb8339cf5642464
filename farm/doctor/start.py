"""Checks before `farm up` starts a process: the findings of the doctor that no worker could start with."""

from __future__ import annotations

from collections.abc import Iterator

from farm.doctor.device_memory import device_memory
from farm.doctor.finding import Finding, Mark
from farm.doctor.safety import safety
from farm.doctor.weights import are_real, licences, loras, weights
from farm.domain.errors import ConfigurationError
from farm.process.hardware import NoAnswer
from farm.settings import Settings


def refuse_unusable_weights(settings: Settings) -> None:
    """Raise ConfigurationError for weights that no worker can load: in one line, however many reasons there are."""
    for finding in _findings(settings) if are_real(settings) else ():
        if finding.mark is Mark.WRONG:
            raise ConfigurationError(f"{finding.text}; {finding.remedy}")
    if settings.lora and settings.pipeline == "flux":
        loras(settings)


def _findings(settings: Settings) -> Iterator[Finding]:
    yield from weights(settings)
    yield licences(settings)
    yield safety(settings)
    try:
        yield from device_memory(settings)
    except NoAnswer:
        return  # a worker may still reach the card that the driver's program does not
