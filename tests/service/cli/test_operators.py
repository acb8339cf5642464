"""The commands of a person on call: jobs and deliveries by what selects them, many at a time; the farm live."""

from __future__ import annotations

import io
import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import pytest
import redis
from flask.testing import FlaskClient
from rich.console import Console, RenderableType

from farm.bootstrap import Farm, _count_storage
from farm.cli.client import Client
from farm.cli.top import _JOBS, View
from farm.domain.delivery import Attempt, Outcome
from farm.domain.errors import StorageError
from farm.jobstore import redis_keys
from farm.settings import load
from farm.storage.local import LocalStorage
from farm.storage.measured import MeasuredStorage
from tests.service.api.calls import submit
from tests.service.cli.commands import Runner, served
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import FACTS

HOUR_US = 3_600_000_000


@pytest.fixture
def command(run: Runner, api: FlaskClient) -> Iterator[Runner]:
    with served(api.application) as url:
        yield run.at(url)


def fail(farm: Farm, api: FlaskClient, code: str) -> str:
    """Return a job that failed with this code."""
    job_id = submit(api)
    job = jobs.take_one(farm.store)
    farm.store.fail(job, code, "It failed.", retry="never")
    return job_id


def age(client: redis.Redis, job_id: str, by_us: int) -> None:
    """Make a job older."""
    created_us = int(client.hget(redis_keys.job(job_id), "created_us") or 0) - by_us
    client.hset(redis_keys.job(job_id), "created_us", created_us)
    for caller in (None, "local"):
        client.zadd(redis_keys.jobs_of(caller), {job_id: created_us})


def listed(command: Runner, *words: str) -> list[str]:
    ended = command("jobs", "list", "--json", *words)
    assert ended.status == 0, ended.err
    return [job["id"] for job in json.loads(ended.out)]


def test_usage_is_a_table_json_or_csv(command: Runner, farm: Farm, api: FlaskClient) -> None:
    submit(api)
    job = jobs.take_one(farm.store)
    farm.store.complete(job, jobs.result(job))

    report = json.loads(command("usage", "--json").out)
    table, text = (command("usage", *words, "--since", "7d").out.splitlines() for words in ([], ["--csv"]))

    (row,) = report["usage"]
    assert (row["caller"], row["images"], report["total"]["images"]) == ("local", 1, 1)
    assert [line.split()[:2] for line in table[1:]] == [[row["day"], "local"], ["total", "1"]]
    assert text[0].startswith("day,caller,model,images,")
    assert text[1] == ",".join(str(value) for value in row_in_order(row, text[0]))
    assert command("usage", "--caller", "bob", "--csv").out.splitlines() == [text[0]]
    assert "--since" in command("usage", "--since", "yesterday").err


def row_in_order(row: dict[str, object], columns: str) -> list[object]:
    return [row[column] for column in columns.split(",")]


def test_jobs_are_found_by_code_model_state_and_age(command: Runner, farm: Farm, api: FlaskClient) -> None:
    old, new = fail(farm, api, "render_failed"), fail(farm, api, "out_of_memory")
    waiting = submit(api)
    age(farm.redis, old, 2 * HOUR_US)

    assert listed(command) == [waiting, new, old]
    assert listed(command, "--code", "render_failed") == [old]
    assert listed(command, "--status", "failed", "--since", "1h") == [new]
    assert listed(command, "--model", "kontext") == []
    since = (datetime.now(UTC) - timedelta(hours=3)).isoformat()
    assert listed(command, "--status", "failed", "--since", since) == [new, old]
    assert listed(command, "--limit", "1") == [waiting]


def test_more_jobs_are_found_than_a_page_has(command: Runner, farm: Farm, api: FlaskClient) -> None:
    oldest = fail(farm, api, "render_failed")
    for _ in range(120):
        submit(api)

    assert listed(command, "--code", "render_failed") == [oldest]
    assert len(listed(command, "--limit", "1000")) == 121


def test_failed_jobs_are_retried_together_and_once(command: Runner, farm: Farm, api: FlaskClient) -> None:
    failed = [fail(farm, api, "render_failed") for _ in range(3)]
    fail(farm, api, "out_of_memory")
    cancelled = submit(api)
    farm.store.cancel(cancelled)

    first = command("jobs", "retry", "--failed", "--code", "render_failed", "--yes").out.split()

    assert [jobs.record(farm.store, new).retry_of for new in first] == failed
    assert command("jobs", "retry", "--failed", "--code", "render_failed", "--yes").out == ""
    rest = command("jobs", "retry", "--failed", "--yes").out.split()
    assert [jobs.record(farm.store, new).retry_of for new in rest] == [jobs.record(farm.store, rest[0]).retry_of]
    assert cancelled not in {jobs.record(farm.store, new).retry_of for new in rest}


@pytest.mark.parametrize("answer", ["n\n", ""], ids=["no", "nobody to ask"])
def test_nothing_is_changed_without_a_yes(
    command: Runner, farm: Farm, api: FlaskClient, monkeypatch: pytest.MonkeyPatch, answer: str
) -> None:
    failed = fail(farm, api, "render_failed")
    delivery = give_up(farm, api, "https://8.8.8.8/hook")

    for words in (("jobs", "retry", "--failed"), ("webhooks", "redeliver", "--all")):
        monkeypatch.setattr("sys.stdin", io.StringIO(answer))
        ended = command(*words)
        assert (ended.status, ended.out.strip()) == (1, "")
        assert ended.err.rpartition("farm: ")[2] == "not confirmed, so nothing was changed (--yes does not ask)\n"

    assert not jobs.record(farm.store, failed).retried_as
    assert farm.deliveries.get(delivery).state is Outcome.FAILED  # type: ignore[union-attr]  # it is there


@pytest.mark.parametrize(
    "words",
    [
        ("jobs", "list", "--code", "render-failed"),
        ("jobs", "retry", "--failed", "--code", "render-failed"),
        ("webhooks", "list", "--failed", "--receiver", "https://nobody.example"),
        ("webhooks", "redeliver", "--all", "--since", "1h"),
    ],
)
def test_an_empty_result_is_reported(command: Runner, farm: Farm, api: FlaskClient, words: tuple[str, ...]) -> None:
    fail(farm, api, "render_failed")

    assert command(*words) == (0, "", "nothing matches\n")


def test_a_job_is_shown_with_its_runs_and_deliveries(command: Runner, farm: Farm, api: FlaskClient) -> None:
    headers = {"X-Request-Id": "call-7"}
    job_id = submit(api, headers=headers, webhook_url="https://you.example/hook", webhook_events=["job.processing"])
    farm.store.renew("w1", FACTS | {"host": "rack-1"}, [])
    farm.store.release(jobs.take_one(farm.store))
    (due,) = farm.deliveries.claim(1, lease_seconds=60)
    farm.deliveries.finish(due, Outcome.WAITING, Attempt(1, 0.25, 503), pause_seconds=60)

    page = command("jobs", "show", job_id).out
    shown = json.loads(command("jobs", "show", job_id, "--json").out)

    (run,), (delivery,) = shown["history"]["runs"], shown["history"]["deliveries"]
    assert (run["worker"], run["host"], run["reason"]) == ("w1", "rack-1", "drained")
    assert (delivery["id"], delivery["attempts"][0]["status"]) == (f"{job_id}-2", 503)
    assert (shown["id"], shown["history"]["request_id"]) == (job_id, "call-7")
    for text in (job_id, "call-7", "rack-1", "drained", run["started_at"], f"{job_id}-2", "HTTP 503", "0.250 s"):
        assert text in page, text


def test_workers_are_named_to_admins_only(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str], admin: dict[str, str]
) -> None:
    job_id = submit(keyed, headers=ada)
    farm.store.release(jobs.take_one(farm.store))
    path = f"/farm/v1/jobs/{job_id}/history"

    assert [keyed.get(path, headers=who).get_json()["runs"][0]["worker"] for who in (ada, admin)] == [None, "w1"]
    assert keyed.get(path, headers=bob).status_code == 404


@pytest.mark.parametrize("words", [(), ("some-id", "--failed")])
def test_jobs_to_retry_are_named_in_one_way_only(command: Runner, words: tuple[str, ...]) -> None:
    assert command("jobs", "retry", *words).status == 2
    all_of_them = tuple(word.replace("--failed", "--all") for word in words)
    assert command("webhooks", "redeliver", *all_of_them).status == 2


@pytest.mark.parametrize("since", ["yesterday", "5", "5w", "-3h"])
def test_an_invalid_time_is_refused_with_what_is_allowed(command: Runner, since: str) -> None:
    ended = command("jobs", "list", "--since", since)

    assert ended.status == 2
    assert "allowed: 30m, 12h, 7d" in ended.err


def give_up(farm: Farm, api: FlaskClient, url: str) -> str:
    """Return a delivery to this receiver that failed for good."""
    submit(api, webhook_url=url, webhook_events=["job.created"])
    (due,) = farm.deliveries.claim(1, lease_seconds=15)
    farm.deliveries.finish(due, Outcome.FAILED, Attempt(1, 0.1, 500))
    return due.id


def test_deliveries_that_failed_are_found_and_repeated(command: Runner, farm: Farm, api: FlaskClient) -> None:
    bad, other = give_up(farm, api, "https://8.8.8.8/hook"), give_up(farm, api, "https://9.9.9.9/hook")
    submit(api, webhook_url="https://8.8.8.8/hook", webhook_events=["job.created"])

    listing = command("webhooks", "list", "--failed").out
    assert bad in listing
    assert other in listing
    assert len(listing.splitlines()) == 3
    assert other not in command("webhooks", "list", "--failed", "--receiver", "https://8.8.8.8").out

    repeated = command("webhooks", "redeliver", "--all", "--receiver", "https://8.8.8.8", "--yes").out

    assert repeated == f"{bad} is queued again\n"
    again = farm.deliveries.get(bad)
    assert again is not None
    assert again.state is Outcome.WAITING


def test_top_tells_of_parts_that_no_job_tells_of(
    command: Runner, farm: Farm, api: FlaskClient, client: redis.Redis
) -> None:
    limit = str(client.config_get("maxmemory")["maxmemory"])
    client.config_set("maxmemory", round(client.info("memory")["used_memory"] / 0.75))
    try:
        shown = command("top", "--once").out
    finally:
        client.config_set("maxmemory", limit)

    assert "no webhook worker runs" in shown
    assert re.search(r"Redis is \d\d% full", shown)  # it grows a little while it is asked


def test_top_tells_why_the_storage_fails(command: Runner, farm: Farm, tmp_path: Path) -> None:
    """Each process tells of what it met: this one's storage is measured as that of a farm is."""
    storage = MeasuredStorage(LocalStorage(tmp_path), partial(_count_storage, farm.tally))
    with pytest.raises(StorageError):
        storage.put("a.png", b"x")
    farm.tally.flush()

    shown = " ".join(command("top", "--once").out.split())
    assert re.search(r"storage: put failed \d s ago: 'a.png' is not a storage key", shown)


@pytest.mark.parametrize("waiting", [1, _JOBS])
def test_top_shows_queue_workers_what_runs_and_causes(
    command: Runner, farm: Farm, api: FlaskClient, waiting: int
) -> None:
    """Also behind a queue so long that none of the newest jobs has started."""
    fail(farm, api, "render_failed")
    submit(api)
    job = jobs.take_one(farm.store, "w1")
    farm.store.renew("w1", FACTS, [jobs.held(job, 3)])
    for _ in range(waiting):
        submit(api)

    shown = command("top", "--once").out

    assert f"waiting {waiting} " in shown
    assert "processing 1" in shown
    assert re.search(rf"^w1 +{job.id} +3/", shown, re.MULTILINE)
    assert re.search(rf"^render_failed +{int(waiting == 1)} +0 +1 *$", shown, re.MULTILINE)


def test_top_shows_rates_from_the_second_look_on(command: Runner, farm: Farm, api: FlaskClient) -> None:
    view = View(Client(load()))
    first = text_of(view.look())
    submit(api)
    job = jobs.take_one(farm.store)
    farm.store.complete(job, jobs.result(job))
    fail(farm, api, "out_of_memory")

    second = text_of(view.look())

    assert "a minute" not in first
    for what in ("images", "completed", "failed"):
        assert re.search(rf"{what} [1-9][\d.]* a minute", second), second
    assert re.search(r"^out_of_memory +1 +1 +1$", second, re.MULTILINE)


def text_of(shown: RenderableType) -> str:
    console = Console(width=1000)
    with console.capture() as captured:
        console.print(shown)
    return "\n".join(line.rstrip() for line in captured.get().splitlines())


def test_models_are_listed_with_their_limits_and_the_workers_that_have_them_loaded(farm: Farm, command: Runner) -> None:
    for name, state in (("w2", "warm"), ("w3", "draining")):
        farm.store.renew(name, FACTS | {"state": state, "models": "kontext", "host": "gpu-1", "device": "cuda:0"}, [])

    header, *lines = command("models").out.splitlines()
    listed = {model["name"]: model for model in json.loads(command("models", "--json").out)}

    assert header.split() == ["model", "weights", "checker", "steps", "guidance", "sides", "workers", "ids"]
    rows = [re.split("  +", line) for line in lines]
    kontext = next(row for row in rows if row[0] == "kontext")
    assert kontext[3:7] == ["28", "1–20", "672–1568", "gpu-1 cuda:0, gpu-1 cuda:0 (draining)"]
    assert [worker["id"] for worker in listed["kontext"]["workers"]] == ["w2", "w3"]
