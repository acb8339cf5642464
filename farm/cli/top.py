"""`farm top`: the farm live, as `top` shows a machine."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Any

import typer
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text

from farm import clock
from farm.cli.client import CallFailed, Client
from farm.cli.terminal import plain_table
from farm.jobstore.memory_guard import FULL_AT
from farm.printable import printable
from farm.settings import load

#: Jobs that are looked at for rates and causes: a page.
_JOBS = 100
_OVERDUE_SECONDS = 10
_FULL_SHARE = 0.7
_FIGURE = re.compile(r"^(farm_\w+) (\S+)$", re.MULTILINE)


def top(
    seconds: Annotated[float, typer.Option(help="Seconds between two looks.", min=0.2, max=3600)] = 2.0,
    once: Annotated[bool, typer.Option("--once", help="Look once, and print it.")] = False,
) -> None:
    """Show queue, workers, jobs and failures live.

    Ctrl-C ends it.
    """
    client, console = Client(load()), Console()
    if once:
        console.print(_overview(client))
        return
    with Live(console=console, screen=True, auto_refresh=False) as live:
        while True:
            live.update(_look(client), refresh=True)
            clock.pause(seconds)


def _look(client: Client) -> RenderableType:
    """Return what there is to see, or why nothing is."""
    try:
        return _overview(client)
    except CallFailed as error:
        return Text(printable(str(error)), style="red")


def _overview(client: Client) -> RenderableType:
    jobs = client.get("/jobs", limit=_JOBS)["jobs"]
    return Group(
        _summary(client.get("/queue"), jobs),
        *(Text(trouble, style="bold red") for trouble in _troubles(_figures(client))),
        Text(),
        _table("workers", ("id", "state", "device", "jobs", "busy", "seen"), _workers(client)),
        Text(),
        _table("running", ("id", "model", "steps", "prompt"), _running(jobs)),
        Text(),
        _table(f"failures among the last {_JOBS} jobs", ("code", "jobs"), _causes(jobs)),
        Text(),
        _table("failing receivers", ("receiver", "deliveries", "next attempt"), _receivers(client)),
    )


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


def _figures(client: Client) -> dict[str, float]:
    """Return the metrics that have no labels."""
    return {name: float(value) for name, value in _FIGURE.findall(client.metrics())}


def _troubles(figures: Mapping[str, float]) -> Iterator[str]:
    """Yield what is wrong with parts of which neither jobs nor render workers tell."""
    if figures.get("farm_webhook_workers") == 0:
        yield "no webhook worker runs: webhooks are not sent, and jobs with input images wait"
    if (overdue := figures.get("farm_webhook_overdue_seconds", 0)) > _OVERDUE_SECONDS:
        yield f"webhooks have been due for {overdue:.0f} s"
    used, limit = (figures.get(f"farm_redis_memory_{which}_bytes", 0) for which in ("used", "max"))
    if limit and used / limit > _FULL_SHARE:
        yield f"Redis is {used / limit:.0%} full; submits are refused at {FULL_AT:.0%}"


def _workers(client: Client) -> list[tuple[object, ...]]:
    found = client.get("/workers")["workers"]
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
