"""The examples of the page of commands, executed on a farm that has what they name."""

from __future__ import annotations

import io
import re
import shlex
from collections.abc import Iterator

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from farm.domain.delivery import Attempt, Outcome
from tests.docs_snippets import command_examples, executed_by
from tests.service.api.calls import submit
from tests.service.cli.commands import Runner, served
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import FACTS

#: Commands whose examples need no process or Redis of their own, no weights and no receiver.
COMMANDS = r"farm (jobs|models|pause|resume|simulate|usage|workers|webhooks(?! test))\b"
EXAMPLES = [line for line in command_examples(executed_by("test_an_example_works")) if re.match(COMMANDS, line)]
_JOB_ID = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"


@pytest.fixture
def command(run: Runner, api: FlaskClient) -> Iterator[Runner]:
    with served(api.application) as url:
        yield run.at(url)


@pytest.fixture
def job_id(farm: Farm, api: FlaskClient) -> str:
    """Return the id of a failed job, each of whose deliveries was given up."""
    job_id = submit(
        api, webhook_url="https://you.example/hook", webhook_events=["job.created", "job.processing", "job.failed"]
    )
    farm.store.fail(jobs.take_one(farm.store), "storage_unavailable", "It failed.", retry="never")
    for due in farm.deliveries.claim(3, lease_seconds=15):
        farm.deliveries.finish(due, Outcome.FAILED, Attempt(1, 1.0, 500))
    return job_id


@pytest.mark.parametrize("line", EXAMPLES)
def test_an_example_works(
    command: Runner, farm: Farm, api: FlaskClient, job_id: str, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    farm.store.renew("gpu1-4711", FACTS, [])
    if "cancel" in line:
        job_id = submit(api)
    monkeypatch.setattr("sys.stdin", io.StringIO("y\n"))

    ended = command(*shlex.split(line.replace(_JOB_ID, job_id))[1:])

    assert ended.status == 0
    assert ended.err.rpartition("? [y/N]:")[2] in ("", "nothing matches\n")
