"""`farm workers`, `farm pause`, `farm resume` and `farm models`."""

from __future__ import annotations

from typing import Annotated, Any
from urllib.parse import urlencode

import typer

from farm.cli.client import Client, escaped
from farm.cli.terminal import show_table
from farm.printable import say
from farm.settings import load

OfModel = Annotated[str | None, typer.Option("--model", help="Only the jobs of this model, by any of its ids.")]
OfPriority = Annotated[str | None, typer.Option("--priority", help="Only the jobs of this priority.")]
OfCaller = Annotated[str | None, typer.Option("--caller", help="Only the jobs of the API key of this name or id.")]

workers = typer.Typer(help="List and drain render workers.")


@workers.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_workers()


@workers.command("list")
def list_workers() -> None:
    """List the workers with a recent heartbeat."""
    found = Client(load()).get("/workers")["workers"]
    columns = ("id", "state", "device", "models", "weights", "jobs", "seen", "version")
    show_table(columns, [_worker_row(worker) for worker in found])


@workers.command()
def drain(worker_id: Annotated[str, typer.Argument(metavar="ID", help="Id of the worker.")]) -> None:
    """Make a worker finish or return its jobs, then exit."""
    Client(load()).post(f"/workers/{escaped(worker_id)}/drain")
    say("draining: the worker takes no new jobs and exits")


def pause(model: OfModel = None, priority: OfPriority = None, caller: OfCaller = None) -> None:
    """Start no more jobs, or none of one group; new ones wait.

    A group is the jobs of a model, a priority or a caller.
    """
    group = _group(model=model, priority=priority, caller=caller)
    Client(load()).post(f"/pause?{urlencode(group)}")
    options = "".join(f" --{kind} {name}" for kind, name in group.items())
    say(f"paused: continue with `farm resume{options}`")


def resume(model: OfModel = None, priority: OfPriority = None, caller: OfCaller = None) -> None:
    """Start jobs again after `farm pause`.

    Give the same options.
    """
    group = _group(model=model, priority=priority, caller=caller)
    left = Client(load()).post(f"/resume?{urlencode(group)}")
    still = (["the farm"] if left["paused"] else []) + [f"{one['kind']} {one['name']}" for one in left["paused_groups"]]
    say("resumed" + (f"; still paused: {', '.join(still)}" if still else ""))


def _group(**options: str | None) -> dict[str, str]:
    """Return the one option that is given, as the API names it."""
    given = {kind: name for kind, name in options.items() if name is not None}
    if len(given) > 1:
        raise typer.BadParameter("give one of --model, --priority and --caller")
    return given


def models() -> None:
    """List the models of this farm and their ids."""
    found = Client(load()).get("/models")["models"]
    rows = [
        (
            model["name"],
            model["weights"] if model["served"] else _unserved(model),
            model["safety"],
            " ".join(model["ids"]),
        )
        for model in found
    ]
    show_table(("model", "weights", "checker", "ids"), rows)


def _unserved(model: dict[str, object]) -> str:
    """Return why the farm does not serve a model: no worker has loaded it, or nothing can check its images."""
    return "not served: needs a safety checker" if model["safety"] == "off" else "not served"


def _worker_row(worker: dict[str, Any]) -> tuple[object, ...]:
    seen = f"{worker['silent_seconds']:.1f} s ago"
    return (
        worker["id"],
        worker["state"],
        worker["device"],
        ", ".join(worker["models"]),
        worker["weights"],
        worker["jobs"],
        seen,
        worker["version"],
    )
