"""Server-sent events: a job's current state, each change, and its end; the changes of all jobs; resuming both."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

import pytest
from flask.testing import FlaskClient

from api import auth
from api.admission import sse
from api.admission.sse import EventStreams
from api.routes import native
from farm import service
from farm.bootstrap import Farm
from farm.domain.catalogue import MAX_WATCHED_JOBS
from farm.domain.preview import Preview
from farm.jobstore import redis_keys
from farm.jobstore.previews import PreviewChannels
from tests.farms import wait_for
from tests.service.api.calls import UNKNOWN_ID, bearer, problem, submit
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import FACTS

ALL = "/farm/v1/events"


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Look into the record often, so that no test waits for a notification or a pause."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 0.02)
    monkeypatch.setattr(native, "CHECK_SECONDS", 0.02)


@dataclass(frozen=True)
class Event:
    """An event as a client reads it."""

    id: str
    name: str
    data: dict[str, Any]

    @property
    def number(self) -> tuple[int, int]:
        """The id of a job's event."""
        sequence, step = self.id.split(".")
        return int(sequence), int(step)


def of(job_id: str) -> str:
    """Return the path of a job's events."""
    return f"/farm/v1/jobs/{job_id}/events"


def chunks(api: FlaskClient, path: str, seen: str = "", **headers: str) -> Iterator[str]:
    """Yield the chunks of a stream, for a client whose last event has this id."""
    headers |= {"Last-Event-ID": seen} if seen else {}
    response = api.get(path, headers=headers, buffered=False)
    assert (response.status_code, response.mimetype) == (200, "text/event-stream")
    try:
        for chunk in response.response:
            yield chunk.decode() if isinstance(chunk, bytes) else chunk
    finally:
        response.close()


def stream(api: FlaskClient, path: str, seen: str = "", **headers: str) -> Iterator[Event]:
    """Yield the events of a stream, as they come."""
    kept = ""
    for chunk in chunks(api, path, seen, **headers):
        *blocks, kept = (kept + chunk).split("\n\n")
        yield from (read(block) for block in blocks)


def read(block: str) -> Event:
    fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
    return Event(fields.get("id", ""), fields["event"], json.loads(fields["data"]))


def take(events: Iterator[Event], count: int) -> list[Event]:
    return [next(events) for _ in range(count)]


def changes(events: list[Event]) -> list[tuple[str, str]]:
    """Return the job and the state of each of these events."""
    return [(event.data["id"], event.name) for event in events]


# One job


def test_previews_are_among_the_events_where_they_are_asked_for(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api)
    channels = PreviewChannels(farm.redis)
    seen, unasked = stream(api, f"{of(job_id)}?previews=true"), stream(api, of(job_id))
    first = [next(seen), next(unasked)]
    wait_for(lambda: channels.watched([job_id]), what="a subscription")
    channels.publish(job_id, Preview(1, 7, "data:image/jpeg;base64,AAAA"))
    shown = next(seen)
    farm.store.cancel(job_id)

    assert [event.name for event in first] == ["job.created"] * 2
    assert shown == Event("", "preview", {"id": job_id, "image": 1, "step": 7, "url": "data:image/jpeg;base64,AAAA"})
    assert [event.name for event in (*seen, *unasked)] == ["job.failed"] * 2
    wait_for(lambda: not channels.watched([job_id]), what="the end of the subscription")


def test_previews_are_for_the_jobs_own_caller(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    job_id = submit(keyed, headers=ada)

    problem(keyed.get(f"{of(job_id)}?previews=true", headers=bob), 404)
    problem(keyed.get(f"{of(job_id)}?previews=true"), 401)
    assert not PreviewChannels(farm.redis).watched([job_id])
    refused = problem(keyed.get(f"{of(job_id)}?previews=yes", headers=ada), 422)
    assert [error["field"] for error in refused["errors"]] == ["previews"]


def of_several(*job_ids: str) -> str:
    """Return the path of several jobs' events, with previews."""
    return f"/farm/v1/jobs/events?ids={','.join(job_ids)}&previews=true"


def test_several_jobs_are_followed_by_one_stream_with_the_previews_of_each(api: FlaskClient, farm: Farm) -> None:
    first, second, ended = submit(api), submit(api), submit(api)
    farm.store.cancel(ended)
    channels = PreviewChannels(farm.redis)
    events = stream(api, of_several(first, second, ended, first))
    known = take(events, 3)
    wait_for(lambda: channels.watched([first, second]) == {first, second}, what="the subscriptions")
    for job_id in (second, first):
        channels.publish(job_id, Preview(0, 3, "data:image/jpeg;base64,AAAA"))
    shown = take(events, 2)
    for job_id in (second, first):
        farm.store.cancel(job_id)
        shown.append(next(events))

    assert changes(known) == [(first, "job.created"), (second, "job.created"), (ended, "job.failed")]
    assert changes(shown) == [(second, "preview"), (first, "preview"), (second, "job.failed"), (first, "job.failed")]
    assert [event.id for event in (*known, *shown)] == [""] * 7
    assert not list(events)
    wait_for(lambda: not channels.watched([first, second]), what="the end of the subscriptions")


def test_a_notification_of_one_of_several_jobs_may_be_lost(api: FlaskClient, farm: Farm) -> None:
    first, second = submit(api), submit(api)
    events = stream(api, of_several(first, second))
    take(events, 2)
    farm.redis.hset(redis_keys.job(second), "step", 5)
    assert changes([next(events)]) == [(second, "job.created")]


@pytest.mark.parametrize("count", [0, MAX_WATCHED_JOBS + 1])
def test_a_stream_follows_a_limited_number_of_jobs(api: FlaskClient, count: int) -> None:
    refused = problem(api.get(of_several(*map(str, range(count)))), 422)
    assert [error["field"] for error in refused["errors"]] == ["ids"]


def test_one_of_several_jobs_that_is_another_callers_is_as_unknown(
    keyed: FlaskClient, farm: Farm, ada: dict[str, str], bob: dict[str, str]
) -> None:
    mine, foreign = submit(keyed, headers=bob), submit(keyed, headers=ada)

    problem(keyed.get(of_several(mine, foreign), headers=bob), 404)
    assert not PreviewChannels(farm.redis).watched([mine, foreign])


def test_a_stream_goes_from_the_present_state_to_the_end(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api, num_inference_steps=4)
    events = stream(api, of(job_id))
    seen = [next(events)]
    job = jobs.take_one(farm.store)
    seen.append(next(events))
    for step in (1, 2):
        farm.store.renew("w1", FACTS, [jobs.held(job, step)])
        seen.append(next(events))
    farm.store.complete(job, jobs.result(job))
    seen += events

    assert [event.name for event in seen] == ["job.created", *["job.processing"] * 3, "job.completed"]
    assert [event.data["progress"]["step"] for event in seen] == [0, 0, 1, 2, 4]
    assert [event.data["sequence"] for event in seen] == [1, 2, 2, 2, 3]
    assert [event.number for event in seen] == sorted({event.number for event in seen})
    assert seen[-1].data == api.get(f"/farm/v1/jobs/{job_id}").get_json() | {"sequence": 3}


def test_a_job_that_is_taken_back_shows_created_again(api: FlaskClient, farm: Farm) -> None:
    job_id = submit(api)
    jobs.take_one(farm.store)
    events = stream(api, of(job_id))
    seen = [next(events)]
    wait_for(lambda: farm.redis.info("server")["uptime_in_seconds"] >= 1)
    jobs.lose(farm.redis, farm.store)
    seen.append(next(events))
    farm.store.cancel(job_id)
    seen += events

    assert [event.name for event in seen] == ["job.processing", "job.created", "job.failed"]
    assert [event.number for event in seen] == sorted(event.number for event in seen)


def test_the_stream_of_a_job_that_has_ended_is_its_end(api: FlaskClient) -> None:
    job_id = submit(api)
    api.post(f"/farm/v1/jobs/{job_id}/cancel")

    (event,) = stream(api, of(job_id))

    assert (event.number, event.name, event.data["code"]) == ((2, 0), "job.failed", "cancelled")


def test_a_reconnecting_client_gets_only_newer_events(api: FlaskClient, farm: Farm) -> None:
    """Only of what is new; the older state is not repeated, the present one comes at once where it is new."""
    job_id = submit(api)
    jobs.take_one(farm.store)
    up_to_date, behind = stream(api, of(job_id), seen="2.0"), stream(api, of(job_id), seen="1.0")

    assert next(behind).name == "job.processing"
    farm.store.cancel(job_id)
    jobs.end_lease(farm.redis)
    farm.store.reap()
    assert next(up_to_date).name == "job.failed"


def test_a_client_that_has_seen_the_terminal_event_gets_204(api: FlaskClient) -> None:
    """204, after which a browser stops."""
    job_id = submit(api)
    api.post(f"/farm/v1/jobs/{job_id}/cancel")

    assert api.get(of(job_id), headers={"Last-Event-ID": "2.0"}).status_code == 204
    assert api.get(of(job_id), query_string={"last_event_id": "2.0"}).status_code == 204
    assert [event.name for event in stream(api, of(job_id), seen="1.0")] == ["job.failed"]


def test_a_change_is_heard_at_once(api: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The notification wakes the stream, long before the next look into the record."""
    monkeypatch.setattr(service, "_LOOK_SECONDS", 60)
    job_id = submit(api)
    events = stream(api, of(job_id))
    next(events)
    wait_for(lambda: farm.redis.pubsub_numsub(redis_keys.changes_channel(job_id))[0][1] > 0)

    farm.store.cancel(job_id)

    assert next(events).name == "job.failed"


def test_a_job_that_is_deleted_ends_its_stream_with_an_error(api: FlaskClient, farm: Farm) -> None:
    """It is deleted between two looks, so that the stream never sees its end."""
    job_id = submit(api)
    events = stream(api, of(job_id))
    next(events)
    farm.redis.delete(f"srpo:job:{job_id}")

    (last,) = events

    assert (last.name, last.data["code"]) == ("error", "not_found")


# All jobs


def test_a_stream_of_all_jobs_begins_at_the_present(api: FlaskClient, farm: Farm) -> None:
    submit(api)
    jobs.take_one(farm.store)
    events = stream(api, ALL)
    start = next(events)
    first, second = submit(api), submit(api)
    api.post(f"/farm/v1/jobs/{second}/cancel")
    seen = take(events, 3)

    assert (start.name, start.data) == ("listening", {})
    assert changes(seen) == [(first, "job.created"), (second, "job.created"), (second, "job.failed")]
    assert [start.id, *(event.id for event in seen)] == jobs.outbox(farm.redis)[1:]
    assert seen[2].data == {
        "id": second,
        "model": "srpo",
        "status": "failed",
        "code": "cancelled",
        "sequence": 2,
        "at": api.get(f"/farm/v1/jobs/{second}").get_json()["finished_at"][:-4] + "Z",
        "urls": {"get": f"{jobs.BASE}/farm/v1/jobs/{second}"},
    }


@pytest.mark.parametrize("way", ["header", "parameter"])
def test_a_stream_resumes_after_the_last_event_id(api: FlaskClient, way: str) -> None:
    first = submit(api)
    place = next(stream(api, ALL)).id
    second, third = submit(api), submit(api)
    path, seen = (ALL, place) if way == "header" else (f"{ALL}?last_event_id={place}", "")
    events = stream(api, path, seen)

    missed = take(events, 2)
    fourth = submit(api)

    assert changes([*missed, next(events)]) == [(job_id, "job.created") for job_id in (second, third, fourth)]
    assert first not in {event.data["id"] for event in missed}


def test_the_header_goes_before_the_parameter(api: FlaskClient) -> None:
    """A browser that comes back shows both: the address it began with, and what it has seen since."""
    submit(api)
    place = next(stream(api, ALL)).id
    second = submit(api)

    assert next(stream(api, f"{ALL}?last_event_id=0-0", seen=place)).data["id"] == second


def test_a_gap_is_reported_to_a_client_that_reconnects_too_late(api: FlaskClient, farm: Farm) -> None:
    first, second, third = submit(api), submit(api), submit(api)
    oldest = jobs.outbox(farm.redis)[0]
    farm.redis.xtrim(redis_keys.OUTBOX, maxlen=2, approximate=False)

    gap, *rest = take(stream(api, ALL, seen=oldest), 3)

    assert (gap.name, gap.id) == ("gap", "")
    assert "/farm/v1/jobs" in gap.data["message"]
    assert [event.data["id"] for event in rest] == [second, third]
    assert [event.name for event in take(stream(api, ALL, seen="0-0"), 2)] == ["job.created"] * 2
    assert first


def test_callers_hear_of_their_own_jobs_only(keyed: FlaskClient, farm: Farm) -> None:
    """An admin hears of everybody's. No event names a caller."""
    ada, bob, root = (bearer(farm.callers.create(name, is_admin=name == "root")) for name in ("ada", "bob", "root"))
    heard = [stream(keyed, ALL, **headers) for headers in (ada, bob, root)]
    for events in heard:
        next(events)
    hers, his = submit(keyed, headers=ada), submit(keyed, headers=bob)

    result = [take(heard[0], 1), take(heard[1], 1), take(heard[2], 2)]

    assert [[event.data["id"] for event in events] for events in result] == [[hers], [his], [hers, his]]
    assert "caller" not in result[2][0].data
    assert not {"ada", "bob"} & set(map(str, result[2][0].data.values()))


def test_the_streams_of_a_revoked_key_end(keyed: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(auth, "_KEY_RECHECK_SECONDS", 0)
    ada, bob = (bearer(farm.callers.create(name)) for name in ("ada", "bob"))
    job_id = submit(keyed, headers=ada)
    hers, his = [stream(keyed, ALL, **ada), stream(keyed, of(job_id), **ada)], stream(keyed, ALL, **bob)
    for events in (*hers, his):
        next(events)

    farm.callers.revoke("ada")

    assert [list(events) for events in hers] == [[], []]
    submit(keyed, headers=bob)
    assert next(his).name == "job.created"


def test_an_idle_stream_gets_its_cursor(keyed: FlaskClient, farm: Farm, monkeypatch: pytest.MonkeyPatch) -> None:
    """The client can then resume there, however much happened to other callers' jobs."""
    monkeypatch.setattr(sse, "COMMENT_SECONDS", 0)
    ada, bob = (bearer(farm.callers.create(name)) for name in ("ada", "bob"))
    events = stream(keyed, ALL, **ada)
    start = next(events)
    submit(keyed, headers=bob)

    seen = [next(event for event in events if event.id != start.id)]

    assert (seen[0].name, seen[0].id) == ("listening", jobs.outbox(farm.redis)[-1])


# Both


@pytest.mark.parametrize(
    "seen", ["1", "a.b", "1.0.0", "-1.0", "1. 0", "²-0", "1-2-3", f"1-{2**64}", f"{2**64}.1", "x" * 99]
)
def test_an_invalid_last_event_id_is_refused_by_name(api: FlaskClient, seen: str) -> None:
    for path in (of(submit(api)), ALL):
        by_header = api.get(path, headers={"Last-Event-ID": seen.encode().decode("latin-1")})
        by_parameter = api.get(path, query_string={"last_event_id": seen})

        assert [item["field"] for item in problem(by_header, 422)["errors"]] == ["Last-Event-ID"]
        assert [item["field"] for item in problem(by_parameter, 422)["errors"]] == ["last_event_id"]


def test_an_id_beyond_what_a_store_can_count_is_refused(api: FlaskClient) -> None:
    for half in (2**64 - 1, 2**63):
        problem(api.get(ALL, headers={"Last-Event-ID": f"{half}-{half}"}), 422)
        problem(api.get(ALL, headers={"Last-Event-ID": f"0-{half}"}), 422)
    assert next(chunks(api, ALL, seen=f"{2**63 - 1}-{2**63 - 1}"))


def test_the_id_of_another_stream_is_refused(api: FlaskClient) -> None:
    problem(api.get(ALL, headers={"Last-Event-ID": "1.0"}), 422)
    problem(api.get(of(submit(api)), headers={"Last-Event-ID": "1-0"}), 422)


def test_an_unknown_parameter_of_a_stream_is_refused_by_name(api: FlaskClient) -> None:
    for path in (of(submit(api)), ALL):
        (item,) = problem(api.get(f"{path}?status=failed"), 422)["errors"]
        assert item["field"] == "status"
        assert "last_event_id" in item["message"]


def test_a_quiet_stream_sends_a_comment(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first line is the retry interval; nothing that a client may take for an event is sent as a comment."""
    monkeypatch.setattr(sse, "COMMENT_SECONDS", 0)
    for path in (of(submit(api)), ALL):
        head, first, second, third = (next(sent) for sent in [chunks(api, path)] for _ in range(4))

        assert head == "retry: 1000\n"
        assert first.startswith("id: ")
        assert second.startswith(": still here\n")
        assert third.startswith(": still here\n")


def test_a_stream_is_never_silent_for_longer_than_15_seconds(api: FlaskClient, monkeypatch: pytest.MonkeyPatch) -> None:
    """It looks each second, and sends a comment when the next look might come too late."""
    now = [0]
    monkeypatch.setattr(sse, "clock", SimpleNamespace(monotonic=lambda: now[0]))

    def looks() -> Iterator[str]:
        for now[0] in range(61):
            yield "id: 1\n\n" if now[0] == 20 else sse.COMMENT

    with api.application.test_request_context():
        sent_at = [now[0] for _ in EventStreams(1).answer(looks(), may_stay=lambda: True).response]

    assert sent_at == [0, 14, 20, 34, 48]


def test_streams_are_not_kept_or_changed_on_the_way(api: FlaskClient) -> None:
    for path in (of(submit(api)), ALL):
        response = api.get(path, buffered=False)
        response.close()

        assert (response.headers["Cache-Control"], response.headers["X-Accel-Buffering"]) == ("no-store", "no")


def test_one_stream_too_many_gets_429_with_retry_after(open_api: Callable[..., FlaskClient]) -> None:
    api = open_api(max_streams=2)
    path = of(submit(api))
    first, second = api.get(path, buffered=False), api.get(ALL, buffered=False)

    for refused in (api.get(path), api.get(ALL)):
        assert problem(refused, 429)["code"] == "concurrent_requests_limit"
        assert 1 <= int(refused.headers["Retry-After"]) <= 60
    first.close()
    third = api.get(ALL, buffered=False)
    assert third.status_code == 200
    second.close()
    third.close()


@pytest.mark.parametrize("method", ["HEAD", "POST"])
def test_a_call_without_a_stream_takes_no_slot(open_api: Callable[..., FlaskClient], method: str) -> None:
    api = open_api(max_streams=1)
    for path in (of(submit(api)), ALL, of(UNKNOWN_ID)):
        for _ in range(3):
            api.open(path, method=method).close()

    assert next(stream(api, ALL)).name == "listening"


def test_streams_end_when_the_api_stops(api: FlaskClient) -> None:
    heard = [stream(api, of(submit(api))), stream(api, ALL)]
    for events in heard:
        next(events)

    api.application.extensions["streams"].end()

    assert [list(events) for events in heard] == [[], []]
