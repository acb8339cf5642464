"""`farm jobs`: list, show, cancel, retry and delete jobs."""

from __future__ import annotations

from typing import Annotated

import typer

from farm.cli.client import Client, escaped
from farm.cli.terminal import say_json, show_table
from farm.printable import say
from farm.settings import load

app = typer.Typer(help="List, show, cancel, retry and delete jobs.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")]

#: The sentence about each outcome of a cancel.
_OUTCOMES = {
    "cancelled": "The job was still waiting and will not start.",
    "stopping": "The worker stops within one denoising step.",
    "ended": "The job had already ended.",
}


@app.callback(invoke_without_command=True)
def default(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        list_jobs()


@app.command("list")
def list_jobs(
    status: Annotated[
        str | None, typer.Option(help="Only jobs in this state: created, processing, completed or failed.")
    ] = None,
    limit: Annotated[int, typer.Option(help="Number of jobs, up to 100.")] = 20,
) -> None:
    """List the newest jobs."""
    fields: dict[str, str | int] = {"limit": limit} | ({"status": status} if status else {})
    jobs = Client(load()).get("/jobs", **fields)["jobs"]
    columns = ("id", "model", "status", "code", "progress", "created", "prompt")
    show_table(columns, [_row(job) for job in jobs])


@app.command()
def show(job_id: JobId) -> None:
    """Print a job as JSON."""
    say_json(Client(load()).get(f"/jobs/{escaped(job_id)}"))


@app.command()
def cancel(job_id: JobId) -> None:
    """Cancel a waiting or running job."""
    outcome = Client(load()).post(f"/jobs/{escaped(job_id)}/cancel")["outcome"]
    say(f"{outcome}: {_OUTCOMES[outcome]}")


@app.command()
def retry(job_id: JobId) -> None:
    """Submit a failed job again as a new one, and print its id."""
    say(Client(load()).post(f"/jobs/{escaped(job_id)}/retry")["id"])


@app.command()
def delete(job_id: JobId) -> None:
    """Delete a finished job with its prompt and images."""
    Client(load()).delete(f"/jobs/{escaped(job_id)}")
    say("deleted")


def _row(job: dict[str, object]) -> tuple[object, ...]:
    progress = job["progress"]
    assert isinstance(progress, dict)
    done = f"{progress['step']}/{progress['steps']}"
    prompt = str(job["prompt"])
    return (job["id"], job["model"], job["status"], job["code"], done, job["created_at"], prompt[:60])
