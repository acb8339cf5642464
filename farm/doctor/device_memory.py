"""Check that the weights fit into the memory of every device that they are rendered on."""

from __future__ import annotations

from collections.abc import Iterator

from farm.bootstrap import checkpoints_of, memory_choice
from farm.doctor.finding import Finding, good, note, refused
from farm.domain.errors import ConfigurationError
from farm.process.hardware import Card, total_memory
from farm.process.placement import usable_cards
from farm.settings import Settings
from farm.weights.footprint import footprint_of
from farm.weights.memory_plan import Choice, Footprint, Memory, gigabytes, needed, plan_for

#: Part of a card's memory that programs can use; the driver keeps 1 to 2.5 % of what it reports.
_USABLE = 0.975
#: Bytes of a value on the CPU, where everything is fp32.
_CPU_VALUE_BYTES = 4


def device_memory(settings: Settings) -> Iterator[Finding]:
    """Compare what the weights need with what each device has."""
    footprint, choice = footprint_of(checkpoints_of(settings)), memory_choice(settings)
    cards = usable_cards(settings)
    for card in cards:
        yield _of_card(card, footprint, choice)
    if not cards and (total := total_memory()):
        memory = Memory("this machine", total, _CPU_VALUE_BYTES, can_offload=False)
        yield memory_finding(footprint, memory, choice)


def _of_card(card: Card, footprint: Footprint, choice: Choice) -> Finding:
    name = f"cuda:{card.number} ({card.name})"
    if card.memory is None:
        return note("model memory", f"the driver does not report the memory of {name}")
    return memory_finding(footprint, Memory(name, int(card.memory * _USABLE)), choice)


def memory_finding(footprint: Footprint, memory: Memory, choice: Choice) -> Finding:
    """Judge whether the weights fit into a device's memory."""
    try:
        plan = plan_for(footprint, memory, choice)
    except ConfigurationError as error:
        return refused("model memory", str(error))
    need = gigabytes(needed(footprint, plan, memory.value_bytes))
    return good("model memory", f"{memory.device}: {plan}; {need} of {gigabytes(memory.total)} at the largest image")
