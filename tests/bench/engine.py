"""The render engine on the miniature, without a GPU: the VAE's memory layout, and what acceleration gains and costs.

`python -m tests.bench.engine` measures these rows of `make bench` alone.

Times are CPU seconds of one thread, so that other programs lengthen them less; each figure and its baseline are
measured in turn, again and again. Likeness is that of the same images with every denoising step in full.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from farm import clock
from farm.domain.acceleration import BUNDLED
from farm.domain.catalogue import Acceleration
from farm.process.placement import buffers_kept
from farm.settings import Settings
from tests.bench.decoding import WIDE, Decoder, Work
from tests.bench.figure import Figure, print_table

DECODE_AT_MOST = 0.65
RENDER_AT_MOST = 0.80
#: Level → most of the full computation's denoising time, and the least likeness in decibels: of the median image, of
#: the worst one, and of the median one above as many plain steps.
LEVELS: dict[Acceleration, tuple[float, tuple[float, float, float]]] = {
    "regular": (0.55, (57, 48, 5)),
    "high": (0.42, (54, 40, 5)),
}
_WORKS: tuple[tuple[str, Work, float], ...] = (
    ("decode 1024x768", "decode", DECODE_AT_MOST),
    ("render 1024x768, none", "render", RENDER_AT_MOST),
)
#: The seconds of a figure and of its baseline.
Round = tuple[float, float]
_SQUARE = replace(WIDE, width=512, height=512)
_IMAGES = 24
#: Rounds in which a figure and its baseline are measured in turn: each pair of processes, and each level.
_ROUNDS, _LEVEL_ROUNDS = 5, 15
#: Pairs of processes that decode and render. How many buffers a process as loaded returns to the system stays as it is
#: for its life: from 80,000 to 209,000 pages were cleared again in a decode. So one pair does not do.
_PAIRS = 5

NOTE = f"""\
Engine: the miniature on one thread, CPU seconds. NCHW: the VAE as diffusers loads it, in a process that returns its
buffers to the system, beside the VAE and the process of a worker. Levels: {_IMAGES} images of 512x512, 28 steps; PSNR
against the same images with every step in full. End to end has no requirement: the VAE takes most of the miniature's
time, and a twentieth of FLUX's."""


def figures() -> list[Figure]:
    """Return the table's rows about the engine."""
    import torch

    from workers.pipelines.loading import load_miniature

    layout = list(_layout())
    load_miniature().warm_up()  # sets the number of threads
    with torch.inference_mode():
        return [*layout, *_levels()]


def _layout() -> Iterator[Figure]:
    """Yield the gain of how workers decode, for decoding alone and for a whole image."""
    rounds: dict[Work, list[Round]] = {work: [] for _, work, _ in _WORKS}
    for _ in range(_PAIRS):
        with Decoder("as-workers", **buffers_kept(Settings())) as ours, Decoder("as-loaded") as theirs:
            for work, found in rounds.items():
                found += _in_turn(_ROUNDS, partial(ours.seconds, work), partial(theirs.seconds, work))
    for what, work, at_most in _WORKS:
        yield _row(what, "NCHW", rounds[work], at_most)


def _in_turn(rounds: int, ours: Callable[[], float], theirs: Callable[[], float]) -> list[Round]:
    return [(ours(), theirs()) for _ in range(rounds)]


def _row(what: str, baseline: str, rounds: Sequence[Round], at_most: float | None = None) -> Figure:
    """Return the row of a figure that was measured in turn with its baseline."""
    ours, theirs = (1000 * statistics.median(seconds) for seconds in zip(*rounds, strict=True))
    ratio = statistics.median(one / other for one, other in rounds)
    return Figure(what, f"{ours:.0f} ms", ratio, f"{baseline} {theirs:.0f} ms", at_most=at_most)


def _levels() -> Iterator[Figure]:
    """Yield the denoising time of each level, and the likeness of its images, beside as many plain steps."""
    from workers.calibration.likeness import psnr
    from workers.calibration.measurement import Reference
    from workers.calibration.prompts import OF_THE_MINIATURE
    from workers.pipelines.loading import load_miniature

    pipeline = load_miniature()
    prompts = [OF_THE_MINIATURE[number % len(OF_THE_MINIATURE)] for number in range(_IMAGES)]
    requests = [replace(_SQUARE, prompt=prompt, seed=seed) for seed, prompt in enumerate(prompts)]
    reference = Reference(pipeline, requests, {"PSNR": psnr})
    for name, (at_most, (median, worst, above)) in LEVELS.items():
        level, full_steps = BUNDLED.level(name), BUNDLED.full_steps(name, _SQUARE.steps)
        found, plain = reference.compare(level), reference.compare_plain(full_steps)
        what = f"{name}, {full_steps} of {_SQUARE.steps} steps"
        yield _beside_none(f"{what}: denoising", partial(_denoising_seconds, pipeline), name, at_most)
        gain = found.median_psnr - plain.median_psnr
        for part, value, at_least in (
            ("median", found.median_psnr, median),
            ("worst", found.worst_psnr, worst),
            (f"median above {full_steps} plain steps", gain, above),
        ):
            yield Figure(f"{what}: PSNR, {part}", f"{value:.1f} dB", value, is_ratio=False, at_least=at_least)
        yield _beside_none(f"{name}: end to end 512x512", partial(_render_seconds, pipeline), name)


def _beside_none(
    what: str, seconds: Callable[[Acceleration], float], name: Acceleration, at_most: float | None = None
) -> Figure:
    return _row(what, "none", _in_turn(_LEVEL_ROUNDS, partial(seconds, name), partial(seconds, "none")), at_most)


def _denoising_seconds(pipeline: Any, acceleration: Acceleration) -> float:
    from workers.calibration.measurement import Moments

    moments = Moments(clock.cpu_seconds)
    list(pipeline.render([replace(_SQUARE, acceleration=acceleration)], moments.note))
    return moments.last - moments.first


def _render_seconds(pipeline: Any, acceleration: Acceleration) -> float:
    began = clock.cpu_seconds()
    list(pipeline.render([replace(_SQUARE, acceleration=acceleration)], lambda *_: True))
    return clock.cpu_seconds() - began


if __name__ == "__main__":
    print_table(figures())
    print(f"\n{NOTE}")
