"""`X-Request-Id`: taken, cleaned, answered in every dialect, and kept with the job; `traceparent` is kept, too."""

from __future__ import annotations

import pytest
from flask.testing import FlaskClient

from api.http.request_id import MAX_LENGTH
from farm.bootstrap import Farm
from farm.domain import trace_context
from tests.service.api.calls import bearer, submit
from tests.service.api.dialects import DIALECTS, Dialect
from tests.service.jobstore import jobs

HEADER = "X-Request-Id"
TRACE = "00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"
QUICK = [dialect for dialect in DIALECTS if not dialect.waits]


@pytest.mark.parametrize("dialect", DIALECTS, ids=str)
def test_a_refused_submit_is_answered_with_its_id(api: FlaskClient, dialect: Dialect) -> None:
    response = dialect.submit(api, headers={HEADER: "mine-1"}, guidance_scale=100)

    assert response.status_code == dialect.invalid
    assert response.headers.getlist(HEADER) == ["mine-1"]


@pytest.mark.parametrize("dialect", QUICK, ids=str)
def test_an_accepted_submit_is_answered_with_its_id_and_keeps_it(
    api: FlaskClient, farm: Farm, dialect: Dialect
) -> None:
    response = dialect.submit(api, headers={HEADER: "mine-1"})

    job = jobs.record(farm.store, dialect.job_id(response))
    assert (response.headers[HEADER], job.origin.request_id) == ("mine-1", "mine-1")


@pytest.mark.parametrize("dialect", QUICK, ids=str)
def test_a_submit_without_an_id_gets_one(api: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    responses = [dialect.submit(api) for _ in range(2)]

    given = [response.headers[HEADER] for response in responses]
    assert [jobs.record(farm.store, dialect.job_id(response)).origin.request_id for response in responses] == given
    assert len({*given}) == 2


@pytest.mark.parametrize(
    ("sent", "taken"),
    [
        ("a b\tc", "abc"),
        ("x" * 5000, "x" * MAX_LENGTH),
        ("0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11", "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"),
        ('{"a":"\u00e9\x1b[2J"}', "a:2J"),
    ],
)
def test_an_id_is_cleaned_and_bounded(api: FlaskClient, farm: Farm, sent: str, taken: str) -> None:
    job_id = submit(api, headers={HEADER: sent})

    assert jobs.record(farm.store, job_id).origin.request_id == taken
    assert api.get(f"/farm/v1/jobs/{job_id}", headers={HEADER: sent}).headers[HEADER] == taken


def test_a_key_is_not_taken_for_an_id(keyed: FlaskClient, farm: Farm, ada: dict[str, str]) -> None:
    key = ada["Authorization"].split()[1]

    job_id = submit(keyed, headers=ada | {HEADER: key})

    origin = jobs.record(farm.store, job_id).origin
    assert (origin.request_id in key, origin.key_id) == (False, key.split("_")[1])
    assert keyed.get("/farm/v1/jobs", headers=bearer(key) | {HEADER: key}).headers.get(HEADER) is None


def test_a_read_without_an_id_has_none(api: FlaskClient) -> None:
    assert HEADER not in api.get("/farm/v1/jobs").headers


@pytest.mark.parametrize("dialect", QUICK, ids=str)
def test_an_accepted_submit_keeps_its_trace_context(api: FlaskClient, farm: Farm, dialect: Dialect) -> None:
    accepted = dialect.submit(api, headers={trace_context.HEADER: TRACE})
    other = dialect.submit(api, headers={trace_context.HEADER: f"{TRACE}-garbage"})

    kept = [jobs.record(farm.store, dialect.job_id(response)).origin.traceparent for response in (accepted, other)]
    assert kept == [TRACE, ""]
