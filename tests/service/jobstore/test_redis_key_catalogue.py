"""The catalogue of Redis keys (`farm/jobstore/redis-keys.md`) against the keys of a farm that uses every feature."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import cast

from flask.testing import FlaskClient

from farm.bootstrap import Farm
from farm.domain.bulk import BulkState, Progress
from farm.domain.delivery import Attempt, Outcome
from farm.domain.job import BulkLine, Conditions, State, Webhook
from farm.domain.limits import Limits
from farm.domain.pause import Group
from farm.jobstore import redis_keys, schema
from farm.jobstore.access_rights import command_names
from farm.jobstore.enhancements import Enhanced
from tests.farms import wait_for
from tests.service.api.calls import post_prediction
from tests.service.api.test_fal_storage import IN_PARTS, begin, send
from tests.service.bulk.bulks import post_batch, request, upload
from tests.service.jobstore.jobs import (
    BASE,
    FACTS,
    direct_call,
    end_preparation,
    held,
    new_job,
    result,
    submit,
    take,
)

CATALOGUE = Path(redis_keys.__file__).with_name("redis-keys.md")
_ROW = re.compile(r"^\| `([^`]+)` \| (string|hash|set|zset|list|stream|any) \|", re.MULTILINE)
_UUID = "[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}"
#: What stands for a part of a key.
_PLACEHOLDERS = {
    "id": _UUID,
    "queue": r"[a-z0-9-]+:(?:normal|low|bulk)",
    "model": r"[a-z0-9-]+",
    "priority": "normal|low|bulk",
    "batch_key": r"[^ ]+",
    "sequence": r"\d+",
    "receiver_queue": r"[^ ]+ https?://[^/]+",
    "name": ".+",
    "bulk": "batch_[0-9a-f]{32}",
    "file": "file-[0-9a-f]{32}",
}
#: Commands of this test, and of libraries that do without their answer or need no right to them.
_NOT_NEEDED = {"client|setinfo", "config|resetstat", "flushall", "hello", "auth", "scan", "type"}
_CALL = re.compile(r"call\('([A-Z]+)'")
_DOCS = Path(__file__).parents[3] / "docs" / "redis.md"
_ANYTHING = r"[^:]+"
HOOK = "https://hook.example:8443/done"


def catalogue() -> dict[re.Pattern[str], str]:
    """Return the patterns of all keys, and the type of each."""
    return {_pattern(key): kind for key, kind in _ROW.findall(CATALOGUE.read_text())}


def _pattern(key: str) -> re.Pattern[str]:
    parts = re.split(r"\{(\w+)\}", key)
    literals = [re.escape(part) for part in parts[::2]]
    placeholders = [f"(?:{_PLACEHOLDERS.get(name, _ANYTHING)})" for name in parts[1::2]] + [""]
    return re.compile(re.escape(redis_keys.PREFIX) + "".join(map(str.__add__, literals, placeholders)))


class EveryFeature:
    """A farm that is used in every way, step by step."""

    def __init__(self, farm: Farm, api: FlaskClient) -> None:
        self._farm = farm
        self._api = api
        self._store = farm.store

    def acts(self) -> Iterator[None]:
        """Do one step after another, and yield after each."""
        parts = (
            self._workers,
            self._jobs,
            self._direct_calls,
            self._preparation,
            self._webhooks,
            self._operators,
            self._bulks,
        )
        for part in parts:
            yield from part()
        yield from self._api_and_storage()

    def _workers(self) -> Iterator[None]:
        facts = FACTS | {"host": "host", "pid": "1"}
        self._store.renew("w1", facts, [])
        self._farm.wake_ups.send(1)
        wait_for(lambda: any(self._farm.redis.scan_iter(f"{redis_keys.CELERY}*")), what="Celery's first key")
        yield

    def _jobs(self) -> Iterator[None]:
        conditions = Conditions(start_within=60, runner_hint="session")
        self._store.submit(new_job(key="k", digest="d", conditions=conditions), Limits(rate=60, images_per_day=9))
        for _ in range(6):
            submit(self._store)
        yield
        batches = [take(self._store), take(self._store)]
        self._store.renew("w1", FACTS, [held(job) for job in batches[0]])
        yield
        self._store.complete(batches[0][0], result(batches[0][0]))
        self._store.fail(batches[1][0], "storage_failed", "x", retry="again")
        yield

    def _direct_calls(self) -> Iterator[None]:
        first, again = direct_call(), direct_call()
        self._store.submit(first)
        yield
        self._store.call_disconnected(first.id, first.order.call)
        self._store.submit(again)
        yield

    def _preparation(self) -> Iterator[None]:
        job_id = submit(self._store, sources=("https://images.example/cat.png",))
        yield
        self._store.claim_unprepared(1, 60)
        yield
        end_preparation(self._farm.redis, job_id)
        self._store.claim_unprepared(1, 60)
        yield
        with ThreadPoolExecutor() as pool:
            asked = pool.submit(self._farm.enhancements.ask, "a fox", "srpo", caller="ada")
            wait_for(lambda: self._farm.redis.exists(redis_keys.ENHANCEMENTS), what="the question")
            yield
            question = self._farm.enhancements.take()
            assert question
            self._farm.enhancements.put_back(question)
            self._farm.enhancements.take()
            self._farm.enhancements.answer(question, Enhanced("a fox at dawn", []))
            asked.result()
        self._farm.enhancements.answer(question, Enhanced("to one who is gone", []))
        yield

    def _webhooks(self) -> Iterator[None]:
        submit(self._store, webhook=Webhook(HOOK, frozenset({State.CREATED})))
        yield
        deliveries = self._farm.deliveries
        (due,) = deliveries.claim(1, lease_seconds=60)
        yield
        deliveries.finish(due, Outcome.WAITING, Attempt(1, 0.1, 500), pause_seconds=60)
        self._farm.secrets.of("ada")
        self._farm.secrets.signing_key()
        yield

    def _operators(self) -> Iterator[None]:
        self._store.pause()
        self._store.drain_worker("w1")
        submit(self._store)
        self._store.pause(Group("caller", "ada"))
        yield
        self._store.resume(Group("caller", "ada"))
        yield

    def _bulks(self) -> Iterator[None]:
        bulks = self._farm.bulks
        file_id = upload(self._api, request(1))
        yield
        bulk_id = post_batch(self._api, file_id, {"Idempotency-Key": "k"}).get_json()["id"]
        leased = bulks.claim(60)
        assert leased
        bulks.renew([(bulk_id, leased.fence)], 60)
        bulks.change(leased, BulkState.IN_PROGRESS)
        yield
        self._store.submit(replace(new_job(), line=BulkLine(bulk_id, leased.bulk.kept_until_us, "url")))
        bulks.advance(leased, Progress(1, 1), {1: "{}"})
        yield
        self._store.waiting_count("ada")
        bulks.open_jobs(bulk_id)
        bulks.line_errors(bulk_id, [1])
        bulks.release(leased, pause_seconds=1)
        bulks.end(bulk_id, "cancelled")
        self._api.get("/v1/batches")
        self._api.get("/v1/files")
        self._api.get("/v1/files?order=asc")
        self._api.delete(f"/v1/files/{file_id}")
        yield

    def _api_and_storage(self) -> Iterator[None]:
        assert post_prediction(self._api).status_code == 200
        self._farm.callers.create("ada")
        self._farm.redis.set(redis_keys.PUBLIC_URL, BASE)  # as the API does when it starts
        schema.declare(self._farm.redis)
        send(self._api, begin(self._api, IN_PARTS)[0], b"part")
        self._farm.sweeper.run_once()
        self._farm.tally.add("refusals", "not_found")
        self._farm.tally.storage_errors.note("put", "It does not answer.")
        self._farm.tally.flush()
        self._farm.peers("api").join()
        yield


def test_each_key_has_one_entry_and_each_entry_a_key(farm: Farm, api: FlaskClient) -> None:
    entries = catalogue()
    seen: set[re.Pattern[str]] = set()
    for _ in EveryFeature(farm, api).acts():
        for key in cast(list[str], list(farm.redis.scan_iter())):
            matching = [pattern for pattern in entries if pattern.fullmatch(key)]
            assert len(matching) == 1, f"{key}: {len(matching)} entries"
            assert entries[matching[0]] in ("any", farm.redis.type(key)), key
            seen.add(matching[0])
    assert [pattern.pattern for pattern in entries if pattern not in seen] == []


def test_the_rights_that_the_farm_asks_for_are_what_it_uses(farm: Farm, api: FlaskClient) -> None:
    farm.redis.config_resetstat()
    for _ in EveryFeature(farm, api).acts():
        pass
    sent = {name.removeprefix("cmdstat_") for name in farm.redis.info("commandstats")}
    scripts = "".join(path.read_text() for path in CATALOGUE.parent.glob("lua/**/*.lua"))
    called = {name.lower() for name in _CALL.findall(scripts)}

    assert len(called) > 20
    assert (sent | called) - _NOT_NEEDED - command_names() == set()


def test_the_docs_list_each_command_that_the_farm_needs() -> None:
    listed = re.search(r"^```\n((?:\+[a-z|]+\s)+)```$", _DOCS.read_text(), re.MULTILINE)
    assert listed
    assert {rule.removeprefix("+") for rule in listed[1].split()} == command_names()
