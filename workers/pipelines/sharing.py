"""Images that share a forward of the transformer: none, all of equal positions, or those for which it pays here.

A shared forward is faster where one image does not fill the device. But kernels are chosen by shape: an image that is
computed in other company may differ in its last bits.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import torch

from farm import clock
from farm.domain.catalogue import BATCH_IMAGES, KONTEXT_SIZES, SIZE_PRESETS, Weights
from workers.pipelines.device import synchronize
from workers.pipelines.latents import Size, positions
from workers.pipelines.network import ForwardInputs, Network

#: Images share a forward where that makes at least so many times as many images a second.
MIN_GAIN = 1.10
#: Each forward is timed so often, after one that is not.
_RUNS = 3

#: For each network, how many times as many images a second a full shared forward makes, by its count of tokens.
Gains = Mapping[Weights, Mapping[int, float]]


@dataclass(frozen=True, slots=True)
class Sharing:
    """The counts of tokens per image at which images share a forward, by network."""

    token_counts: Mapping[Weights, frozenset[int]] = field(default_factory=dict)
    is_for_all: bool = False

    @property
    def capacity(self) -> int:
        """Most images of any forward."""
        return BATCH_IMAGES if self.is_for_all or any(self.token_counts.values()) else 1

    def capacity_for(self, weights: Weights, tokens: int) -> int:
        """Return the most images of a forward of so many tokens each."""
        return BATCH_IMAGES if self.is_for_all or tokens in self.token_counts.get(weights, ()) else 1

    def __str__(self) -> str:
        counts = {str(name): sorted(counts) for name, counts in sorted(self.token_counts.items()) if counts}
        return "shared" if self.is_for_all else f"shared {counts}" if counts else "exact"


#: Each image has its own forward.
EXACT = Sharing()
SHARED = Sharing(is_for_all=True)


def where_it_pays(gains: Gains) -> Sharing:
    return Sharing({
        name: frozenset(count for count, gain in found.items() if gain >= MIN_GAIN) for name, found in gains.items()
    })  # fmt: skip


def kept(file: Path, measure: Callable[[], Gains]) -> Gains:
    """Return the gains that are kept in `file`; without it, measure them and keep them there.

    Of several workers that measure at once, all use what the first one kept: their builds must not differ by noise.
    """
    if not file.exists():
        file.parent.mkdir(parents=True, exist_ok=True)
        own = file.with_suffix(f".{os.getpid()}")
        own.write_text(json.dumps(measure(), indent=1), "utf-8")
        try:
            os.link(own, file)
        except FileExistsError:
            """Another worker was first."""
        finally:
            own.unlink()
    read: Mapping[str, Mapping[str, float]] = json.loads(file.read_text("utf-8"))
    return {Weights(name): {int(count): gain for count, gain in found.items()} for name, found in read.items()}


def measured(networks: Mapping[Weights, Network]) -> Gains:
    """Measure the gains at the sizes of the presets."""
    return {name: {count: _gain(network, size) for count, size in _sizes(name, network.grid).items()}
            for name, network in networks.items()}  # fmt: skip


def _sizes(weights: Weights, grid: int) -> Mapping[int, Size]:
    """Return a size for each count of tokens of the presets; of Kontext's own, the square one."""
    presets = [KONTEXT_SIZES["1:1"]] if weights is Weights.KONTEXT else list(SIZE_PRESETS.values())
    sizes = [Size.around(width, height, grid) for width, height in presets]
    return {size.rows * size.columns: size for size in sizes}


def _gain(network: Network, size: Size) -> float:
    with torch.inference_mode():
        image = _any_image(network, size)
        return BATCH_IMAGES * _seconds(network, [image]) / _seconds(network, [image] * BATCH_IMAGES)


def _any_image(network: Network, size: Size) -> ForwardInputs:
    tokens = network.to_device(torch.zeros(1, size.rows * size.columns, 4 * network.channels))
    time = network.schedule(1, size).timesteps[0]
    return ForwardInputs(tokens, network.to_device(positions(size)), time, network.prompt("warm up"), guidance=1.0)


def _seconds(network: Network, images: list[ForwardInputs]) -> float:
    """Return the median duration of a forward of these images."""
    durations: list[float] = []
    for _ in range(1 + _RUNS):
        began = clock.monotonic()
        network.velocities(images)
        synchronize(images[0].tokens.device)
        durations.append(clock.monotonic() - began)
    return median(durations[1:])
