"""The table at the end of a run."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence

from farm.cli.terminal import show_table
from tests.bench.figure import percentile
from tests.chaos.judge import Finding
from tests.chaos.records import Observations
from tests.chaos.requests import number_in


def print_table(observations: Observations, found: Sequence[Finding], *, seed: int) -> None:
    """Print what happened, and the judge's findings."""
    show_table(("what", "how many"), rows(observations, found, seed=seed))
    for finding in found:
        print(finding)
    print("the judge found nothing" if not found else f"the judge found {len(found)} broken promises")


def rows(observations: Observations, found: Sequence[Finding], *, seed: int) -> Iterator[tuple[str, str]]:
    """Yield the rows of the table: what, and how many."""
    records = observations.records.values()
    codes = Counter(record.code for record in records if record.state == "failed")
    asked = Counter(number_in(record.prompt) for record in records)
    rules = Counter(finding.rule for finding in found)
    injections = Counter(inject.kind for inject in observations.injections)
    waiting, started = recovery_seconds(observations)
    yield "seed", str(seed)
    yield "asks", str(len(observations.asks))
    yield "jobs accepted and told so", str(len(observations.jobs))
    yield "jobs that the farm has", str(len(records))
    yield "completed", str(sum(record.state == "completed" for record in records))
    for code, count in sorted(codes.items()):
        yield f"failed: {code}", str(count)
    yield "deleted by their callers", str(len({one.job for one in observations.deletions}))
    yield "asks without a key that became two jobs", str(sum(count > 1 for count in asked.values()))
    yield "images compared", str(sum(fetch.status == 200 for fetch in observations.fetches))
    yield "webhooks received", str(len(observations.webhooks))
    yield "events streamed", str(len(observations.overheard))
    yield "orphaned images, swept", str(observations.swept)
    for kind, count in sorted(injections.items()):
        yield f"done to it: {kind}", str(count)
    for (kind, status), count in sorted(observations.exits.items()):
        yield f"left with status {status}: {kind}", str(count)
    yield "jobs in the hands of killed workers", str(len(started))
    yield "until seen waiting again, p50 / p99", _spread(waiting)
    yield "until started again, p50 / p99", _spread(started)
    yield "lost", str(rules["lost"] + rules["unfinished"])
    yield "doubled", str(rules["doubled"])
    yield "other findings", str(len(found) - rules["lost"] - rules["unfinished"] - rules["doubled"])
    yield "wall time", f"{observations.seconds:.0f} s"


def recovery_seconds(observations: Observations) -> tuple[list[float], list[float]]:
    """Return the seconds from a worker's death to each of its jobs' return to the queue, and to its restart.

    As far as anybody saw that: a direct call sees its job only at the end.
    """
    waits: dict[str, list[float]] = defaultdict(list)
    starts: dict[str, list[float]] = defaultdict(list)
    for sight in observations.sights:
        if sight.state == "created":
            waits[sight.job].append(sight.at)
        starts[sight.job].append(sight.started)
    for record in observations.records.values():
        starts[record.job].append(record.started)
    killed = [(job, one.at) for one in observations.injections if one.kind == "kill worker" for job in one.jobs]
    both = ((job, died, _first_after(died, starts[job])) for job, died in killed)
    started = [(job, died, at) for job, died, at in both if at is not None]
    waiting = [(died, _first_after(died, waits[job]), at) for job, died, at in started]
    return (
        [seen - died for died, seen, at in waiting if seen is not None and seen <= at],
        [at - died for _, died, at in started],
    )


def _spread(seconds: Sequence[float]) -> str:
    if len(seconds) < 2:
        return "too few"
    return f"{percentile(seconds, 50):.1f} s / {percentile(seconds, 99):.1f} s of {len(seconds)}"


def _first_after(moment: float, moments: Sequence[float]) -> float | None:
    return min((at for at in moments if at > moment), default=None)
