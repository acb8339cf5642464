"""`farm render` against a real API: ids, Ctrl-C, and options that reach the job."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from tests.service.cli.commands import Ended, Runner, interrupt, served


@pytest.fixture
def interrupted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Interrupt `farm render` as soon as it waits for its job.

    A real signal could reach whatever else this process does.
    """
    monkeypatch.setattr("farm.cli.download.clock", SimpleNamespace(pause=interrupt))


@pytest.mark.usefixtures("interrupted")
@pytest.mark.parametrize("options", [[], ["--json"]])
def test_ctrl_c_says_that_the_job_goes_on_and_how_to_cancel_it(
    api: FlaskClient, run: Runner, tmp_path: Path, options: list[str]
) -> None:
    with served(api.application) as url:
        ended = run.at(url)("render", "a fox", "--out", str(tmp_path), *options)

    (job,) = api.get("/farm/v1/jobs").get_json()["jobs"]
    assert (ended.status, ended.out.strip(), job["status"]) == (130, "", "created")
    assert lines(ended)[0] == f"job: {job['id']}"
    assert lines(ended)[-1] == f"The job goes on. To cancel it: farm jobs cancel {job['id']}"


@pytest.mark.usefixtures("interrupted")
def test_ctrl_c_cancels_the_job_if_that_was_asked_for(api: FlaskClient, run: Runner, tmp_path: Path) -> None:
    with served(api.application) as url:
        ended = run.at(url)("render", "a fox", "--out", str(tmp_path), "--cancel-on-interrupt")

    (job,) = api.get("/farm/v1/jobs").get_json()["jobs"]
    assert (ended.status, job["status"], job["code"]) == (130, "failed", "cancelled")
    assert lines(ended)[-1] == f"job {job['id']}: cancelled"


def lines(ended: Ended) -> list[str]:
    """Return what is on stderr, less the progress bars."""
    return [line for line in ended.err.splitlines() if line.strip() and not line.startswith(("steps", "images"))]


@pytest.mark.usefixtures("interrupted")
def test_the_safety_tolerance_reaches_the_job(farm: Farm, api: FlaskClient, run: Runner, tmp_path: Path) -> None:
    farm.store.renew(
        "k", {"state": "warm", "models": "kontext-text-to-image", "weights": "w", "safety": "s", "build": ""}, []
    )

    with served(api.application) as url:
        run.at(url)("render", "a fox", "--model", "kontext", "--safety-tolerance", "5", "--out", str(tmp_path))
        refusals = [
            run.at(url)("render", "a fox", "--safety-tolerance", "5"),
            run.at(url)("render", "a fox", "--model", "kontext", "--safety-tolerance", "7"),
        ]

    (job,) = api.get("/farm/v1/jobs").get_json()["jobs"]
    stored = farm.store.get(job["id"])
    assert stored is not None
    assert stored.request.safety_tolerance == 5
    assert "--safety-tolerance: this model has no such option" in refusals[0].err
    assert "--safety-tolerance: " in refusals[1].err
    assert [refusal.status for refusal in refusals] == [1, 1]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["render", "\udcff"], "PROMPT: Input should be a valid string, unable to parse raw data as a unicode string"),
        (["jobs", "show", "\udcff"], "No job has the id '\ufffd'"),
        (["jobs", "list", "--caller", "\udcff"], ""),
    ],
)
def test_an_argument_that_is_not_utf8_is_no_traceback(
    api: FlaskClient, run: Runner, tmp_path: Path, words: list[str], message: str
) -> None:
    """Python passes such bytes on as lone surrogates, which UTF-8 cannot hold."""
    with served(api.application) as url:
        ended = run.at(url)(*words, *(["--out", str(tmp_path)] if words[0] == "render" else []))

    assert (ended.status, message in ended.err) == (1 if message else 0, True)
    assert ended.err.count("\n") <= 1
