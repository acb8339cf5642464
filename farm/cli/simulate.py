"""`farm simulate`: how long jobs would wait for so many cards, and what that costs, by the farm's own policy."""

from __future__ import annotations

import gc
import math
from collections.abc import Collection, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import typer

from farm.cli.exclusive_options import refuse_beside
from farm.cli.terminal import say_json, show_table
from farm.domain.catalogue import BATCH_IMAGES, MAX_IMAGES, MODELS, Acceleration
from farm.domain.errors import FarmError
from farm.domain.scheduling import ASSUMED_PACE, PRIORITIES
from farm.printable import say
from farm.simulation.farm import Cards, Outcome, SimulatedFarm
from farm.simulation.trace import Arrival, Mix, made_up, read, size_of

_PERCENTS = (50, 95, 99)
_COUNTS = [str(count) for count in range(1, MAX_IMAGES + 1)]
#: Parameters of a generated trace.
_MADE_UP = ("hours", "load", "rate", "swing", "model", "size", "acceleration", "images", "priority", "steps", "seed")

Weighted = list[str] | None
Gpus = Annotated[int, typer.Option(min=1, max=100_000, help="Cards, with a worker each.")]
Hours = Annotated[float, typer.Option(min=0.01, max=720, help="Length of the generated trace.")]
Rate = Annotated[float | None, typer.Option(min=0.000001, help="Jobs a second on average, instead of --load.")]
Load = Annotated[float, typer.Option(min=0.01, max=10, help="Offered work, as a share of what the cards can do.")]
Swing = Annotated[
    float, typer.Option(min=0, max=1, help="Share by which the rate rises at noon and falls at midnight.")
]
Model = Annotated[Weighted, typer.Option(metavar="NAME=WEIGHT", help="Default: srpo.")]
Size = Annotated[Weighted, typer.Option(metavar="NAME=WEIGHT", help="Default: landscape_4_3=3 and square_hd=1.")]
Levels = Annotated[Weighted, typer.Option(metavar="NAME=WEIGHT", help="Default: none.")]
Images = Annotated[Weighted, typer.Option(metavar="COUNT=WEIGHT", help="Images of a job. Default: 1=7, 2=1 and 4=2.")]
Priority = Annotated[Weighted, typer.Option(metavar="NAME=WEIGHT", help="Default: normal=6, low=1 and bulk=3.")]
Steps = Annotated[int, typer.Option(min=1, max=50, help="Denoising steps of an image.")]
Seed = Annotated[int, typer.Option(help="Seed of the generated trace.")]
Trace = Annotated[Path | None, typer.Option(help="A CSV or JSONL file of jobs, instead of a generated trace.")]
Pace = Annotated[float, typer.Option(min=0.000001, help="Seconds of a full step of a megapixel.")]
Forward = Annotated[Literal["exact", "shared"], typer.Option(help="As FARM_FORWARD.")]
Gain = Annotated[
    float, typer.Option(min=0.1, max=4, help="With `shared`: throughput of four images together, relative to one.")
]
Price = Annotated[float, typer.Option(min=0, help="Price of a card for an hour, in any currency.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON.")]


class UnusableMix(FarmError):
    """Options that make no trace."""


@dataclass(frozen=True, slots=True)
class Report:
    """The findings of a simulation, as they are printed."""

    outcome: Outcome
    gpus: int
    price_per_gpu_hour: float

    @property
    def utilisation(self) -> float:
        """The share of the time in which the cards work, until the last job has ended."""
        return self.outcome.busy_seconds / (self.gpus * self.outcome.end) if self.outcome.end else 0.0

    @property
    def price(self) -> float:
        return self.gpus * self.outcome.end / 3600 * self.price_per_gpu_hour

    def document(self) -> dict[str, Any]:
        """Return the report as JSON has it. Times are in seconds."""
        images = self.outcome.images
        return {
            "gpus": self.gpus,
            "seconds": round(self.outcome.end, 3),
            "jobs": self.outcome.jobs,
            "images": images,
            "utilisation": round(self.utilisation, 4),
            "cost": round(self.price, 2),
            "cost_per_1000_images": round(1000 * self.price / images, 4) if images else 0.0,
            "priorities": {name: self._times(name) for name in PRIORITIES if name in self.outcome.times},
        }

    def _times(self, priority: str) -> dict[str, Any]:
        times = self.outcome.times[priority]
        return {
            "jobs": len(times.to_end),
            "wait_seconds": percentiles(times.to_start),
            "total_seconds": percentiles(times.to_end),
        }


def percentiles(values: Iterable[float]) -> dict[str, float]:
    """Return p50, p95 and p99."""
    ordered = sorted(values)
    return {f"p{percent}": round(ordered[(len(ordered) - 1) * percent // 100], 3) for percent in _PERCENTS}


def simulate(
    context: typer.Context,
    gpus: Gpus = 1000,
    hours: Hours = 24.0,
    load: Load = 0.7,
    rate: Rate = None,
    swing: Swing = 0.5,
    model: Model = None,
    size: Size = None,
    acceleration: Levels = None,
    images: Images = None,
    priority: Priority = None,
    steps: Steps = 28,
    seed: Seed = 1,
    trace: Trace = None,
    pace: Pace = ASSUMED_PACE,
    forward: Forward = "exact",
    gain: Gain = 1.15,
    price_per_gpu_hour: Price = 0.0,
    as_json: AsJson = False,
) -> None:
    """Simulate a farm: waiting times, utilisation and cost. Needs no farm.

    Options with NAME=WEIGHT may be given several times.
    """
    _refuse_ignored(context, has_trace=trace is not None, has_rate=rate is not None, is_exact=forward == "exact")
    cards = Cards(gpus, pace, BATCH_IMAGES, gain) if forward == "shared" else Cards(gpus, pace)
    if trace:
        arrivals: Iterable[Arrival] = read(trace)
    else:
        mix = Mix(
            weights("--model", model or ["srpo"], [each.name for each in MODELS]),
            weights("--size", size or ["landscape_4_3=3", "square_hd=1"]),
            weights("--acceleration", acceleration or ["none"], get_args(Acceleration)),
            weights("--images", images or ["1=7", "2=1", "4=2"], _COUNTS),
            weights("--priority", priority or ["normal=6", "low=1", "bulk=3"], PRIORITIES),
            steps,
        )
        arrivals = made_up(mix, rate=rate or load * cards.speed / mix.mean_cost(), hours=hours, swing=swing, seed=seed)
    with _without_garbage_collection():
        report = Report(SimulatedFarm(cards).run(arrivals), gpus, price_per_gpu_hour)
    if as_json:
        say_json(report.document())
    else:
        show(report.document())


def _refuse_ignored(context: typer.Context, *, has_trace: bool, has_rate: bool, is_exact: bool) -> None:
    """Raise BadParameter if an option was typed that has no effect."""
    if has_trace:
        refuse_beside(context, "--trace", _MADE_UP)
    if has_rate:
        refuse_beside(context, "--rate", ["load"])
    if is_exact:
        refuse_beside(context, "--forward exact", ["gain"])


@contextmanager
def _without_garbage_collection() -> Iterator[None]:
    """Look for no cycles within the block: there are none, and looking takes a third of a long simulation."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def weights(option: str, texts: Sequence[str], allowed: Collection[str] = ()) -> dict[str, float]:
    """Return the value of each `NAME=WEIGHT`, whose weight is 1 without one. Raises UnusableMix."""
    found: dict[str, float] = {}
    for text in texts:
        name, _, weight = text.partition("=")
        try:
            found[name] = float(weight or 1)
            if not allowed:
                size_of(name)
        except ValueError:
            raise UnusableMix(f"{option} {text}: give a name, and a number behind '='.") from None
        if not 0 < found[name] < math.inf or (allowed and name not in allowed):
            raise UnusableMix(f"{option} {text}: allowed: {', '.join(allowed) or 'weights'} above 0.")
    return found


def show(found: dict[str, Any]) -> None:
    """Print the report for people."""
    hours = found["seconds"] / 3600
    say(f"{found['jobs']:,} jobs with {found['images']:,} images in {hours:.2f} h on {found['gpus']:,} cards")
    say(f"cards busy: {found['utilisation']:.1%}")
    if found["cost"]:
        say(f"cost: {found['cost']:,.2f}; {found['cost_per_1000_images']:.4f} for 1,000 images")
    rows = [
        (name, f"{times['jobs']:,}", *times["wait_seconds"].values(), *times["total_seconds"].values())
        for name, times in found["priorities"].items()
    ]
    waits, totals = ([f"{what} p{percent}" for percent in _PERCENTS] for what in ("wait", "total"))
    show_table(("priority", "jobs", *waits, *totals), rows)
