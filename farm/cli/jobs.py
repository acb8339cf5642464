"""`farm jobs`: list, show, cancel, retry and delete jobs."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

import typer

from farm.cli.client import Client, escaped
from farm.cli.job_page import show_job
from farm.cli.search import Item, Since, confirm, newest, say_if_none, search
from farm.cli.terminal import say_json, show_table
from farm.printable import say
from farm.settings import load

app = typer.Typer(help="List, show, cancel, retry and delete jobs.")

JobId = Annotated[str, typer.Argument(metavar="ID", help="Id of the job.")]

Code = Annotated[str | None, typer.Option(help="Only jobs that failed with this code.")]
ModelId = Annotated[str | None, typer.Option("--model", help="Only jobs of this model, by the id that they named.")]

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
    code: Code = None,
    model: ModelId = None,
    caller: Annotated[str | None, typer.Option(help="Only jobs of the API key of this name or id.")] = None,
    since: Since = None,
    limit: Annotated[int, typer.Option("-n", "--limit", help="Number of jobs.", min=1, max=100_000)] = 20,
    as_json: Annotated[bool, typer.Option("--json", help="Print the complete jobs as JSON.")] = False,
) -> None:
    """List jobs, the newest first."""
    jobs = newest(_found(Client(load()), status=status, code=code, model=model, since=since, caller=caller), limit)
    say_if_none(jobs)
    if as_json:
        say_json(jobs)
    elif jobs:
        columns = ("id", "model", "status", "code", "progress", "created", "prompt")
        show_table(columns, [_row(job) for job in jobs])


@app.command()
def show(
    job_id: JobId,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job and its history as JSON.")] = False,
) -> None:
    """Show a job with its times, runs on workers, and deliveries.

    Of each webhook delivery it shows every attempt.
    """
    client, path = Client(load()), f"/jobs/{escaped(job_id)}"
    job, history = client.get(path), client.get(f"{path}/history")
    if as_json:
        say_json(job | {"history": history})
    else:
        show_job(job, history)


@app.command()
def cancel(job_id: JobId) -> None:
    """Cancel a waiting or running job."""
    outcome = Client(load()).post(f"/jobs/{escaped(job_id)}/cancel")["outcome"]
    say(f"{outcome}: {_OUTCOMES[outcome]}")


@app.command()
def retry(
    job_id: Annotated[str | None, typer.Argument(metavar="[ID]", help="Id of the job.")] = None,
    failed: Annotated[bool, typer.Option("--failed", help="All failed jobs that were not retried yet.")] = False,
    code: Code = None,
    model: ModelId = None,
    since: Since = None,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
) -> None:
    """Submit failed jobs again as new ones, and print their ids.

    Give one id, or --failed with filters.
    """
    if failed == (job_id is not None):
        raise typer.BadParameter("give the id of a job, or --failed")
    client = Client(load())
    ids = [job_id] if job_id else _retryable(client, code=code, model=model, since=since)
    if failed:
        confirm(f"Submit {len(ids)} failed jobs again?", ids, is_sure=yes)
    # The oldest first: they waited for longest.
    for each in reversed(ids):
        say(client.post(f"/jobs/{escaped(each)}/retry")["id"])


@app.command()
def delete(job_id: JobId) -> None:
    """Delete a finished job with its prompt and images."""
    Client(load()).delete(f"/jobs/{escaped(job_id)}")
    say("deleted")


def _found(
    client: Client,
    *,
    status: str | None,
    code: str | None,
    model: str | None,
    since: str | None,
    caller: str | None = None,
) -> Iterator[Item]:
    """Yield the jobs that the options select, newest first."""

    def is_wanted(job: Item) -> bool:
        return (code is None or job["code"] == code) and (model is None or job["model"] == model)

    asked = {"status": status, "caller": caller}
    return search(client, "/jobs", is_wanted, since=since, **{name: value for name, value in asked.items() if value})


def _retryable(client: Client, *, code: str | None, model: str | None, since: str | None) -> list[str]:
    """Return the ids of the failed jobs that the options select, but for those that somebody cancelled or retried."""
    jobs = _found(client, status="failed", code=code, model=model, since=since)
    return [job["id"] for job in jobs if job["retried_as"] is None and (code or job["code"] != "cancelled")]


def _row(job: dict[str, object]) -> tuple[object, ...]:
    progress = job["progress"]
    assert isinstance(progress, dict)
    done = f"{progress['step']}/{progress['steps']}"
    prompt = str(job["prompt"])
    return (job["id"], job["model"], job["status"], job["code"], done, job["created_at"], prompt[:60])
