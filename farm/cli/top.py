"""`farm top`: the farm live, as `top` shows a machine."""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from farm import clock
from farm.cli.client import CallFailed, Client
from farm.cli.figures import Figures
from farm.cli.terminal import plain_table
from farm.cli.troubles import events, troubles
from farm.printable import printable
from farm.settings import load

#: The newest jobs and deliveries that are looked at: a page.
_JOBS = 100
#: For how long rates are averaged, in seconds.
_RATE_SECONDS = 60.0
#: Counters whose rates are shown, and what they count.
_RATES = {"farm_images_total": "images", "farm_jobs_completed_total": "completed", "farm_jobs_failed_total": "failed"}
_FAILED = "farm_jobs_failed_total"


def top(
    seconds: Annotated[float, typer.Option(help="Seconds between updates.", min=0.2, max=3600)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Print one update and exit.")] = False,
) -> None:
    """Show queue, workers, jobs and failures live.

    Ctrl-C ends it.
    """
    view, console = View(Client(load())), Console()
    if once:
        console.print(view.overview())
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(view.look(), refresh=True)
            clock.pause(seconds)


class View:
    """Looks at a farm again and again, and tells of what has happened since the first look."""

    def __init__(self, client: Client) -> None:
        self._client = client
        self._first: Figures | None = None
        self._lately: deque[tuple[float, Figures]] = deque()

    def look(self) -> RenderableType:
        """Return what there is to see, or why nothing is."""
        try:
            return self.overview()
        except CallFailed as error:
            return Text(printable(str(error)), style="red")

    def overview(self) -> RenderableType:
        """Return what there is to see. Raises CallFailed."""
        jobs = self._client.get("/jobs", limit=_JOBS)["jobs"]
        workers = self._client.get("/workers")
        now = Figures(self._client.metrics())
        first = self._first = self._first or now
        wrong = [*troubles(now, workers.get("storage_errors", [])), *events(first, now)]
        return Group(
            _summary(self._client.get("/queue"), jobs, self._rates(now)),
            *(Text(printable(trouble), style="bold red") for trouble in wrong),
            Text(),
            _table("workers", ("id", "state", "device", "jobs", "busy", "seen"), _workers(workers["workers"])),
            Text(),
            _table("running", ("worker", "job", "steps"), _running(workers["workers"])),
            Text(),
            _table(
                "failures", ("code", f"of the last {_JOBS} jobs", "since this began", "ever"), _causes(jobs, first, now)
            ),
            Text(),
            _table("failing receivers", ("receiver", "deliveries", "next attempt"), _receivers(self._client)),
        )

    def _rates(self, now: Figures) -> list[str]:
        """Return what was done a minute lately; nothing at the first look."""
        at = clock.monotonic()
        self._lately.append((at, now))
        while at - self._lately[0][0] > _RATE_SECONDS and len(self._lately) > 2:
            self._lately.popleft()
        since, then = self._lately[0]
        if at == since:
            return []
        rates = ((now.total(name) - then.total(name)) / (at - since) * 60 for name in _RATES)
        return [f"{what} {rate:.1f} a minute" for what, rate in zip(_RATES.values(), rates, strict=True)]


def _summary(queue: dict[str, Any], jobs: list[dict[str, Any]], rates: list[str]) -> Text:
    oldest = max((one["oldest_seconds"] for one in queue["queues"] if one["jobs"]), default=0.0)
    parts = [
        "PAUSED" if queue["paused"] else "running",
        *(f"PAUSED: {one['kind']} {one['name']}" for one in queue["paused_groups"]),
        f"waiting {queue['waiting']}",
        f"unprepared {queue['unprepared']}",
        f"processing {queue['processing']}",
        f"oldest {oldest:.0f} s",
        *(f"{one['model']} {one['priority']}: {one['jobs']}" for one in queue["queues"] if one["jobs"]),
        f"completed of the last {len(jobs)}: {sum(job['status'] == 'completed' for job in jobs)}",
        *rates,
    ]
    return Text(printable(" · ".join(parts)), style="bold")


def _workers(found: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [
        (
            worker["id"],
            worker["state"],
            worker["device"],
            worker["jobs"],
            f"{worker['busy_seconds']:.0f} s",
            f"{worker['silent_seconds']:.1f} s ago",
        )
        for worker in found
    ]


def _running(workers: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return [
        (worker["id"], job["id"], f"{job['step']}/{job['steps']}") for worker in workers for job in worker["running"]
    ]


def _causes(jobs: list[dict[str, Any]], first: Figures, now: Figures) -> list[tuple[object, ...]]:
    """Return the codes with which jobs failed. Behind a long queue, none of the newest jobs has ended."""
    lately = Counter(job["code"] for job in jobs if job["status"] == "failed")
    before, ever = first.by("code", _FAILED), now.by("code", _FAILED)
    codes = [code for code in lately.keys() | ever.keys() if lately[code] or ever.get(code)]
    rows = [(code, lately[code], ever.get(code, 0) - before.get(code, 0), ever.get(code, 0)) for code in codes]
    rows.sort(key=lambda row: (row[2], row[1], row[3], row[0]), reverse=True)
    return [(code, *(f"{count:.0f}" for count in counts)) for code, *counts in rows]


def _receivers(client: Client) -> list[tuple[object, ...]]:
    """Return the receivers whose deliveries failed and will be tried again."""
    waiting = [
        item
        for item in client.get("/deliveries", limit=_JOBS)["deliveries"]
        if item["status"] == "waiting" and item["attempts"]
    ]
    counts = Counter(item["receiver"] for item in waiting)
    next_at = {item["receiver"]: item["next_try_at"] for item in waiting}
    return [(receiver, count, next_at[receiver]) for receiver, count in counts.most_common()]


def _table(title: str, columns: Iterable[str], rows: list[tuple[object, ...]]) -> RenderableType:
    if not rows:
        return Text(f"{title}: none", style="dim")
    return plain_table(columns, rows, title)
