"""Placement of render workers on this machine: how many there are, and which card each of them has."""

from __future__ import annotations

from dataclasses import dataclass

from farm.process.hardware import Card, cards, cores, free_memory, installed_torch
from farm.settings import Settings, environment

#: Bytes of memory that one worker on the CPU takes for an image of the largest size, by pipeline; with real weights
#: there is only one worker.
WORKER_MEMORY = {"flux": 2_200_000_000, "simulated": 80_000_000}
#: By these variables glibc keeps large buffers for the next layer instead of returning them to the system, which would
#: clear each page again; only its first arena holds any that are larger than 64 MB (mallopt(3), and HEAP_MAX_SIZE). It
#: returns what is free at its end beyond 512 MiB, more than images of 1024x1024 need, and asks for huge pages, where
#: the kernel gives them on request: weights are read in every step, all of them.
_BUFFERS_KEPT = {
    "MALLOC_MMAP_THRESHOLD_": str(2**30),
    "MALLOC_TRIM_THRESHOLD_": str(2**29),
    "MALLOC_ARENA_MAX": "1",
    "GLIBC_TUNABLES": "glibc.malloc.hugetlb=1",
}
#: Workers on the CPU take this part of the free memory: the machine is used for other things, too.
_SHARE_OF_MEMORY = 0.8


@dataclass(frozen=True, slots=True)
class Place:
    """The place of one render worker. `card`: None on the CPU. `threads`: its share of the processor cores."""

    card: Card | None
    threads: int

    @property
    def device(self) -> str | None:
        """The card as `cuda:NUMBER`, by which people know it: the worker itself sees no other card."""
        return f"cuda:{self.card.number}" if self.card else None

    def label(self, number: int) -> str:
        """Return the name of the `number`-th worker in messages."""
        return f"worker {number} on {self.device}" if self.card else f"worker {number}"

    @property
    def environment(self) -> dict[str, str]:
        """Variables of the worker's process. A card is named by its UUID: numbers change when another card is lost."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS"), str(self.threads))
        return threads if self.card is None else threads | _one_card(self.card)

    @property
    def options(self) -> list[str]:
        """Options of the worker's command line."""
        return ["--device-name", self.device] if self.device else []


def places(settings: Settings, workers: int | None) -> list[Place]:
    """Return the place of each of so many workers; None: one per card, or as many as the CPU carries.

    More workers than cards share the cards in turn.
    """
    found = usable_cards(settings)
    count = workers or len(found) or workers_on_the_cpu(settings)
    threads = max(1, cores() // count)
    return [Place(found[number % len(found)] if found else None, threads) for number in range(count)]


def usable_cards(settings: Settings) -> list[Card]:
    """Return the cards that workers with these settings render on: for the miniature none unless FARM_DEVICE is set."""
    device = settings.device or ("cuda" if settings.has_real_weights else "cpu")
    kind, _, number = device.partition(":")
    if settings.pipeline == "simulated" or kind != "cuda" or not _torch_has_cuda():
        return []
    return [card for card in cards() if number in ("", str(card.number))]


def workers_on_the_cpu(settings: Settings) -> int:
    """Return how many workers the processor carries: one per core, as far as there is memory. Real weights: one."""
    if not _uses_no_card(settings):
        return 1
    free = free_memory()
    fitting = cores() if free is None else int(_SHARE_OF_MEMORY * free // WORKER_MEMORY[settings.pipeline])
    return max(1, min(cores(), fitting))


def is_short_of_memory(settings: Settings) -> bool:
    """Return True if memory, not the number of cores, limits the workers on the CPU."""
    return _uses_no_card(settings) and workers_on_the_cpu(settings) < cores()


def buffers_kept(settings: Settings) -> dict[str, str]:
    """Return the variables by which a worker of the miniature on the CPU keeps its buffers, but for those that are set.

    On two cores it renders 6 to 10 % more images of 512x512, and 24 % more of 1024x1024. Real weights are read through
    such buffers, which must be returned.
    """
    if settings.pipeline == "simulated" or not _uses_no_card(settings):
        return {}
    return {name: value for name, value in _BUFFERS_KEPT.items() if name not in environment()}


def _uses_no_card(settings: Settings) -> bool:
    """Return True if the workers of these settings render on the CPU, without real weights."""
    return not settings.has_real_weights and (settings.device or "cpu") == "cpu"


def _one_card(card: Card) -> dict[str, str]:
    return {"CUDA_VISIBLE_DEVICES": card.uuid, "FARM_DEVICE": "cuda"}


def _torch_has_cuda() -> bool:
    torch = installed_torch()
    return torch is not None and torch.cuda is not None
