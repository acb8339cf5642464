"""Manual retries: a failed job is submitted again as a new one, with everything that its caller said."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import redis
from flask.testing import FlaskClient

from farm.auth.api_keys import Caller
from farm.bootstrap import Farm
from farm.domain.errors import NotFound, QueueFull, StoreUnavailable
from farm.domain.job import Conditions, Job, Order, Source, State, Webhook
from farm.jobstore import redis_keys
from farm.jobstore.store import JobStore
from farm.storage.storage import new_upload_key, parse_key
from tests.images import sample_image
from tests.service.api.calls import UNKNOWN_ID, problem
from tests.service.images.test_intake import stored
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import FACTS, TERMS, new_job, record
from tests.unit.dialects.samples import a_request

HOOK = Webhook("https://example.com/hook", frozenset({State.COMPLETED}))
STRANGER = "https://images.example/fox.png"
ADA = Caller("ada", is_admin=False)


@pytest.fixture(autouse=True)
def warm_worker(farm: Farm) -> None:
    farm.store.renew("w", FACTS | {"models": "srpo,kontext"}, [])


def failed(farm: Farm, *, dialect: str = "native", conditions: Conditions | None = None, **fields: Any) -> Job:
    """Return a failed job of ada's."""
    order = Order(
        "flux/srpo",
        a_request(**fields),
        "low",
        dialect=dialect,
        webhook=HOOK,
        inline=True,
        conditions=conditions or Conditions(),
    )
    job_id = farm.service.submit(ADA, order).id
    farm.store.cancel(job_id)
    return record(farm.store, job_id)


def failed_with_inputs(farm: Farm, *sources: Source, is_prepared: bool = True) -> Job:
    """Return a failed job of ada's with input images."""
    order = Order("kontext", a_request(model="srpo"), sources=sources)
    job_id = farm.service.submit(ADA, order).id
    if is_prepared:
        (job,) = farm.store.claim_unprepared(1, 60)
        own = f"{job_id}-input-0-{'0' * 16}.png"
        farm.storage.put(own, sample_image())
        named = tuple(own if source.startswith(job_id) else source for source in job.request.sources)
        farm.store.finish_preparation(job_id, job.request.model_copy(update={"sources": named, "inputs": (own,)}))
    farm.store.cancel(job_id)
    return record(farm.store, job_id)


def retry(farm: Farm, job: Job, caller: Caller = ADA) -> Job:
    return record(farm.store, farm.service.retry(caller, job.id).id)


def shown(api: FlaskClient, job_id: str, headers: dict[str, str] | None = None) -> dict[str, Any]:
    body: dict[str, Any] = api.get(f"/farm/v1/jobs/{job_id}", headers=headers).get_json()
    return body


@pytest.mark.parametrize("dialect", ["native", "fal", "wavespeed", "openai"])
def test_a_retry_equals_a_new_job_of_the_same_request(farm: Farm, dialect: str) -> None:
    conditions = Conditions(start_within=60, keep_seconds=120, may_retry=False, runner_hint="h")
    job = failed(farm, dialect=dialect, prompt="a red fox", seed=9, images=3, conditions=conditions)

    again = retry(farm, job)

    new = Job(**{name: getattr(again, name) for name in again.__slots__})
    assert (new.state, new.request, new.retry_of) == (State.CREATED, job.request, job.id)
    for name in ("caller", "endpoint", "priority", "dialect", "webhook", "inline"):
        assert getattr(new, name) == getattr(job, name), name
    assert farm.store.conditions(new.id) == conditions
    assert record(farm.store, job.id) == replace(job, retried_as=new.id)  # its end stays


def test_each_names_the_other(api: FlaskClient, farm: Farm) -> None:
    job = failed(farm)

    response = api.post(f"/farm/v1/jobs/{job.id}/retry")

    assert response.status_code == 202
    again = response.get_json()["id"]
    assert response.get_json()["urls"]["get"].endswith(again)
    assert (shown(api, job.id)["retried_as"], shown(api, again)["retry_of"]) == (again, job.id)
    assert (shown(api, job.id)["retry_of"], shown(api, again)["retried_as"]) == (None, None)


def test_asking_twice_makes_one(api: FlaskClient, farm: Farm) -> None:
    job = failed(farm)

    first, second = (api.post(f"/farm/v1/jobs/{job.id}/retry") for _ in range(2))

    assert first.get_json() == second.get_json()
    assert [answer.headers.get("Idempotent-Replayed") for answer in (first, second)] == [None, "true"]
    assert len(farm.store.page(None, before_us=None, count=9)) == 2


def test_the_new_one_may_be_asked_for_once_more_too(farm: Farm) -> None:
    job = failed(farm)
    again = retry(farm, job)
    farm.store.cancel(again.id)

    last = retry(farm, again)

    assert last.id not in (job.id, again.id)
    assert retry(farm, job).id == again.id


def test_if_the_new_one_was_deleted_another_is_made(farm: Farm) -> None:
    job = failed(farm)
    again = retry(farm, job)
    farm.store.cancel(again.id)
    farm.service.delete(ADA, again.id)

    assert retry(farm, job).id != again.id


@pytest.mark.parametrize("how", ["waits", "runs", "completed"])
def test_only_a_failed_one_is_taken(api: FlaskClient, farm: Farm, how: str) -> None:
    job_id = jobs.submit(farm.store, "local")
    if how != "waits":
        job = jobs.take_one(farm.store)
        if how == "completed":
            farm.store.complete(job, jobs.result(job))

    refused = problem(api.post(f"/farm/v1/jobs/{job_id}/retry"), 409)

    assert refused["code"] == "not_retryable"
    assert record(farm.store, job_id).state in refused["detail"]
    assert len(farm.store.page(None, before_us=None, count=9)) == 1


def test_one_that_was_to_be_forgotten_is_refused(api: FlaskClient, farm: Farm) -> None:
    job = failed(farm, conditions=Conditions(keeps_payload=False))

    refused = problem(api.post(f"/farm/v1/jobs/{job.id}/retry"), 409)

    assert "was deleted" in refused["detail"]


def test_a_job_of_another_caller_cannot_be_retried(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    job = failed(farm)

    for path in (job.id, UNKNOWN_ID):
        problem(keyed.post(f"/farm/v1/jobs/{path}/retry", headers=bob), 404)
    assert keyed.post(f"/farm/v1/jobs/{job.id}/retry", headers=ada).status_code == 202


def test_an_admin_may_for_its_owner(keyed: FlaskClient, farm: Farm, ada: dict[str, str], admin: dict[str, str]) -> None:
    job = failed(farm)

    again = keyed.post(f"/farm/v1/jobs/{job.id}/retry", headers=admin).get_json()["id"]

    assert record(farm.store, again).caller == "ada"
    assert shown(keyed, again, ada)["id"] == again


def test_limits_hold(farm: Farm, client: redis.Redis) -> None:
    store = JobStore(client, replace(TERMS, queue_limit=1))
    old = new_job()
    store.submit(old)
    store.cancel(old.id)
    store.submit(new_job())

    with pytest.raises(QueueFull):
        store.submit(replace(new_job(), retry_of=old.id))

    assert record(store, old.id).retried_as == ""


def test_a_job_that_is_gone_meanwhile_cannot_be_repeated(store: JobStore) -> None:
    with pytest.raises(NotFound):
        store.submit(replace(new_job(), retry_of=UNKNOWN_ID))


def test_a_lost_answer_makes_one(store: JobStore) -> None:
    old = new_job()
    store.submit(old)
    store.cancel(old.id)
    new = replace(new_job(), retry_of=old.id)

    assert [store.submit(new).id, store.submit(new).id] == [new.id, new.id]


# Its images


@pytest.mark.parametrize("is_prepared", [True, False])
def test_a_retry_has_its_own_copies_of_the_input_images(farm: Farm, *, is_prepared: bool) -> None:
    """The old job may be deleted: its images go with it, the new one's stay."""
    job = failed_with_inputs(farm, Source("image_url", content=sample_image()), is_prepared=is_prepared)

    again = retry(farm, job)
    farm.service.delete(ADA, job.id)

    request = again.request
    assert request.needs_preparation is not is_prepared
    assert request.model_dump(exclude={"sources", "inputs"}) == job.request.model_dump(exclude={"sources", "inputs"})
    for key in (*request.sources, *request.inputs):
        name = parse_key(key)
        assert name is not None
        assert name.job_id == again.id
        assert farm.storage.read(key) == sample_image()
    assert len(stored_for(farm, again)) == 1
    assert stored_for(farm, job) == set()


def test_a_retry_does_not_fetch_its_input_again(farm: Farm) -> None:
    """It may be another image by now: the same request is the same pixels."""
    job = failed_with_inputs(farm, Source("image_url", url=STRANGER))

    again = retry(farm, job)

    assert (again.request.sources, again.request.needs_preparation) == ((STRANGER,), False)
    assert jobs.take_one(farm.store).request == again.request


def test_an_upload_is_named_as_before(farm: Farm) -> None:
    farm.redis.set(redis_keys.PUBLIC_URL, jobs.BASE)
    upload = new_upload_key("png", until=farm.stats.now_us() // 1_000_000 + 3600)
    farm.storage.put(upload, sample_image())
    job = failed_with_inputs(farm, Source("image_url", url=f"{jobs.BASE}/files/{upload}"), is_prepared=False)

    assert retry(farm, job).request.sources == (upload,)


@pytest.mark.parametrize("what", ["its own", "prepared", "upload"])
def test_an_image_that_is_gone_is_reported(farm: Farm, api: FlaskClient, what: str) -> None:
    farm.redis.set(redis_keys.PUBLIC_URL, jobs.BASE)
    if what == "upload":
        upload = new_upload_key("png", until=farm.stats.now_us() // 1_000_000 + 3600)
        farm.storage.put(upload, sample_image())
        job = failed_with_inputs(farm, Source("image_url", url=f"{jobs.BASE}/files/{upload}"), is_prepared=False)
        farm.storage.remove(upload)
    else:
        job = failed_with_inputs(farm, Source("image_url", content=sample_image()), is_prepared=what == "prepared")
        farm.storage.delete_job(job.id)
    before = stored(farm)

    refused = problem(api.post(f"/farm/v1/jobs/{job.id}/retry"), 409)

    assert "no longer exists" in refused["detail"]
    assert stored(farm) == before


def test_a_second_retry_leaves_no_images(farm: Farm) -> None:
    job = failed_with_inputs(farm, Source("image_url", content=sample_image()))
    retry(farm, job)
    before = stored(farm)

    retry(farm, job)

    assert stored(farm) == before


def test_where_the_answer_was_lost_the_images_stay(farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The job may be recorded; the sweeper finds orphans."""
    job = failed_with_inputs(farm, Source("image_url", content=sample_image()))
    before = stored(farm)
    monkeypatch.setattr(farm.store, "submit", _lost)

    with pytest.raises(StoreUnavailable):
        farm.service.retry(ADA, job.id)

    assert len(stored(farm) - before) == 1


def _lost(*_: object, **_options: object) -> None:
    raise StoreUnavailable


def stored_for(farm: Farm, job: Job) -> set[str]:
    return {name for name in stored(farm) if name.startswith(job.id)}
