"""`farm jobs`: look at jobs and act on them."""

from __future__ import annotations

import json
from typing import Annotated

import typer

from farm.cli.client import Client
from farm.cli.tables import show as show_table
from farm.settings import load

app = typer.Typer(no_args_is_help=False, help="Look at jobs and act on them.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="The job's id.")]


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_jobs()


@app.command("list")
def list_jobs(
    status: Annotated[str | None, typer.Option(help="created, processing, completed or failed.")] = None,
    limit: Annotated[int, typer.Option(help="How many of the newest, up to 100.")] = 20,
) -> None:
    """The newest jobs."""
    fields: dict[str, str | int] = {"limit": limit} | ({"status": status} if status else {})
    jobs = Client(load()).get("/jobs", **fields)["jobs"]
    columns = ("id", "model", "status", "code", "progress", "created", "prompt")
    show_table(columns, [_row(job) for job in jobs])


@app.command()
def show(job_id: JobId) -> None:
    """All that is known of a job, as JSON."""
    print(json.dumps(Client(load()).get(f"/jobs/{job_id}"), indent=2))


@app.command()
def cancel(job_id: JobId) -> None:
    """Cancel a job that waits or runs."""
    outcome = Client(load()).post(f"/jobs/{job_id}/cancel")["outcome"]
    said = {"cancelled": "it never started", "stopping": "its worker stops within a step", "ended": "it had ended"}
    print(f"{outcome}: {said[outcome]}")


@app.command()
def retry(job_id: JobId) -> None:
    """Ask for a failed job once more, as a new one."""
    print(Client(load()).post(f"/jobs/{job_id}/retry")["id"])


@app.command()
def delete(job_id: JobId) -> None:
    """Remove a finished job: record, prompt and pictures."""
    Client(load()).delete(f"/jobs/{job_id}")
    print("deleted")


def _row(job: dict[str, object]) -> tuple[object, ...]:
    progress = job["progress"]
    assert isinstance(progress, dict)
    done = f"{progress['step']}/{progress['steps']}"
    prompt = str(job["prompt"])
    return (job["id"], job["model"], job["status"], job["code"], done, job["created_at"], prompt[:60])
