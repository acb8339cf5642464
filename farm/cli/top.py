"""`farm top`: the farm live, as `top` shows a machine."""

from __future__ import annotations

from collections import Counter
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

#: Jobs that are looked at for rates and causes: a page.
_JOBS = 100


def top(
    seconds: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=3600)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and print it.")] = False,
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
        return Group(
            _summary(self._client.get("/queue"), jobs),
            *(
                Text(printable(trouble), style="bold red")
                for trouble in self._troubles(workers.get("storage_errors", []))
            ),
            Text(),
            _table("workers", ("id", "state", "device", "jobs", "busy", "seen"), _workers(workers["workers"])),
            Text(),
            _table("running", ("id", "model", "steps", "prompt"), _running(jobs)),
            Text(),
            _table(f"failures among the last {_JOBS} jobs", ("code", "jobs"), _causes(jobs)),
            Text(),
            _table("failing receivers", ("receiver", "deliveries", "next attempt"), _receivers(self._client)),
        )

    def _troubles(self, storage_errors: list[dict[str, Any]]) -> list[str]:
        figures = Figures(self._client.metrics())
        self._first = self._first or figures
        return [*troubles(figures, storage_errors), *events(self._first, figures)]


def _summary(queue: dict[str, Any], jobs: list[dict[str, Any]]) -> Text:
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
    ]
    return Text(" · ".join(parts), style="bold")


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


def _running(jobs: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    running = [job for job in jobs if job["status"] == "processing"]
    return [
        (job["id"], job["model"], f"{job['progress']['step']}/{job['progress']['steps']}", job["prompt"][:60])
        for job in running
    ]


def _causes(jobs: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    return list(Counter(job["code"] for job in jobs if job["status"] == "failed").most_common())


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
