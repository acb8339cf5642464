"""`farm workers` and `farm models`: what renders here, and what it serves."""

from __future__ import annotations

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
