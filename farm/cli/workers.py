"""`farm workers`, `farm pause`, `farm resume`, `farm models`: what renders here, whether it does, what it serves."""

from __future__ import annotations

from typing import Annotated
from urllib.parse import quote

import typer

from farm.cli.client import Client
from farm.cli.tables import show
from farm.settings import load

workers = typer.Typer(help="The workers and what they hold.")


@workers.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_workers()


@workers.command("list")
def list_workers() -> None:
    """Every worker that gave a sign of life lately."""
    found = Client(load()).get("/workers")["workers"]
    columns = ("id", "state", "models", "weights", "jobs", "seen", "version")
    show(columns, [_worker_row(worker) for worker in found])


@workers.command()
def drain(worker_id: Annotated[str, typer.Argument(metavar="ID", help="The worker's id.")]) -> None:
    """Have a worker finish or hand back what it holds, and leave."""
    Client(load()).post(f"/workers/{quote(worker_id, safe='')}/drain")
    print("draining: it takes nothing more, and leaves")


def pause() -> None:
    """Have the workers take nothing new; what is submitted waits."""
    Client(load()).post("/pause")
    print("paused: go on with `farm resume`")


def resume() -> None:
    """Let the workers go on."""
    Client(load()).post("/resume")
    print("resumed")


def models() -> None:
    """What this farm serves, with the ids that callers use."""
    found = Client(load()).get("/models")["models"]
    rows = [
        (model["name"], model["weights"] if model["served"] else "not served", model["safety"], " ".join(model["ids"]))
        for model in found
    ]
    show(("model", "weights", "checker", "ids"), rows)


def _worker_row(worker: dict[str, object]) -> tuple[object, ...]:
    seen = f"{worker['silent_seconds']:.1f} s ago"
    return (
        worker["id"],
        worker["state"],
        worker.get("models"),
        worker.get("weights"),
        worker["jobs"],
        seen,
        worker["version"],
    )
