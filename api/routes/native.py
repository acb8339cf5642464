"""Routes of `/farm/v1`, the farm's own dialect, which acts on the jobs of every dialect."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, replace
from functools import lru_cache, partial
from itertools import chain
from typing import Any, get_args

import flask

from api.admission.sse import CHECK_SECONDS, COMMENT, event, last_event_id
from api.auth import Authenticator
from api.context import ApiContext
from api.http import query
from api.http.body import IMAGES_BODY, read_body, refuse_fields
from farm import clock
from farm.auth.api_keys import ApiKeyStore, Caller
from farm.dialects import native
from farm.dialects.answers import native as answers
from farm.dialects.links import Links
from farm.domain.catalogue import MAX_WATCHED_JOBS, MODELS, Model, find
from farm.domain.errors import FarmError, InvalidRequest, Problem, UnknownModel
from farm.domain.job import Change, Job, Moment, State
from farm.domain.pause import Group, GroupKind, PausedGroup
from farm.domain.preview import Preview
from farm.domain.scheduling import PRIORITIES
from farm.jobstore.backlog import Backlog, backlogs
from farm.jobstore.event_feed import FeedPage
from farm.jobstore.reading import Reading
from farm.jobstore.stats import Queue, StoreStats, Worker
from farm.jobstore.storage_errors import OperationError
from farm.jobstore.store import Accepted
from farm.service import random_seed
from farm.telemetry.store_metrics import WORKER_STATES

#: Number of events whose text is cached, since many streams send the same events.
FORMATTED_EVENTS = 1000
#: What a pause may be limited to, as the query names it.
_GROUP_KINDS: tuple[GroupKind, ...] = get_args(GroupKind)
_IN_THE_QUERY = f"give one of {', '.join(_GROUP_KINDS)} in the query, as in ?model=srpo"
_GAP = "Earlier events are no longer available; get the state of your jobs from /farm/v1/jobs."


def routes(context: ApiContext) -> flask.Blueprint:
    blueprint = flask.Blueprint("native", __name__, url_prefix="/farm/v1")
    _add_jobs(blueprint, context)
    _add_events(blueprint, context)
    _add_farm(blueprint, context)
    _add_operations(blueprint, context)
    return blueprint


def _add_jobs(blueprint: flask.Blueprint, context: ApiContext) -> None:
    """Add the routes that submit, show, cancel, retry and delete jobs."""
    service, authenticator = context.service, context.authenticator

    @blueprint.post("/jobs")
    def submit() -> tuple[answers.AcceptedJob, int, dict[str, str]]:
        caller = authenticator.submitter()
        query.refuse_others()
        body = read_body(native.NAME, max_bytes=IMAGES_BODY, may_be_direct=False)  # it names the model
        endpoint = _endpoint(body.fields)
        model = service.model(endpoint)
        read = partial(native.read, model=model.name, default_seed=random_seed())
        order, warnings = context.unknown_fields.read(read, body.fields)
        order = order.with_notes(warnings)
        if body.idempotency_key:
            order = replace(order, idempotency_key=body.idempotency_key, body_digest=body.digest)
        accepted = service.submit(caller, order)
        return native.accepted(accepted.id, caller.base), 202, _replayed(accepted)

    @blueprint.get("/jobs")
    def page() -> answers.FarmJobs:
        caller = authenticator.caller()
        query.refuse_others("limit", "before", "status", "caller")
        count, before = query.page()
        wanted = _states()
        owner = _owner(authenticator, context.farm.callers)
        jobs = service.page(caller, before_us=before, count=count, owner=owner)
        shown = [native.view(job, context.links) for job in jobs if job.state in wanted]
        following = jobs[-1].created_us if jobs and len(jobs) == count else None
        return {"jobs": shown, "before": following}

    @blueprint.get("/jobs/<job_id>")
    def get(job_id: str) -> answers.FarmJob:
        caller = authenticator.caller()
        query.refuse_others()
        job = service.get(caller, job_id)
        return native.view(job, context.links, inline=job.inline)

    @blueprint.get("/jobs/<job_id>/history")
    def history(job_id: str) -> answers.JobHistory:
        caller = authenticator.caller()
        query.refuse_others()
        job = service.get(caller, job_id)
        deliveries = context.farm.deliveries.of_job(job)
        return native.history(job, service.runs(job), deliveries, shows_workers=caller.is_admin)

    @blueprint.delete("/jobs/<job_id>")
    def delete(job_id: str) -> tuple[str, int]:
        caller = authenticator.caller()
        query.refuse_others()
        service.delete(caller, job_id)
        return "", 204

    @blueprint.post("/jobs/<job_id>/cancel")
    def cancel(job_id: str) -> tuple[answers.CancelOutcome, int]:
        caller = authenticator.caller()
        query.refuse_others()
        refuse_fields()
        outcome = service.cancel(caller, job_id)
        return {"id": job_id, "outcome": outcome}, 202 if outcome == "stopping" else 200

    @blueprint.post("/jobs/<job_id>/retry")
    def retry(job_id: str) -> tuple[answers.AcceptedJob, int, dict[str, str]]:
        caller = authenticator.submitter()
        query.refuse_others()
        refuse_fields()
        accepted = service.retry(caller, job_id)
        return native.accepted(accepted.id, context.links.base), 202, _replayed(accepted)


def _add_events(blueprint: flask.Blueprint, context: ApiContext) -> None:
    """Add the streams of server-sent events."""
    service, authenticator, streams = context.service, context.authenticator, context.streams
    format_change = lru_cache(FORMATTED_EVENTS)(_change_event)

    @blueprint.get("/jobs/<job_id>/events")
    def job_events(job_id: str) -> flask.Response:
        caller, seen = authenticator.caller(), last_event_id(".", "previews")
        previews = query.flag("previews")
        watched = service.watch_with_previews(caller, [job_id], idle_seconds=CHECK_SECONDS, previews=previews)
        first = next(watched)  # an unknown job is an error before the stream starts
        assert isinstance(first, Job)
        if seen != (first.sequence, first.step):
            watched = chain([first], watched)
        elif first.state.is_terminal:
            return flask.current_app.response_class(status=204)  # tells a browser not to reconnect
        return streams.answer(_job_blocks(watched, context.links), may_stay=authenticator.key_still_valid())

    @blueprint.get("/jobs/events")
    def events_of_jobs() -> flask.Response:
        caller = authenticator.caller()
        query.refuse_others("ids", "previews")
        job_ids, previews = query.ids("ids", maximum=MAX_WATCHED_JOBS), query.flag("previews")
        watched = service.watch_with_previews(caller, job_ids, idle_seconds=CHECK_SECONDS, previews=previews)
        first = next(watched)
        blocks = _job_blocks(chain([first], watched), context.links, with_ids=False)
        return streams.answer(blocks, may_stay=authenticator.key_still_valid())

    @blueprint.get("/events")
    def events() -> flask.Response:
        caller, seen = authenticator.caller(), last_event_id("-")
        followed = service.follow(caller, Moment(*seen) if seen else None, idle_seconds=CHECK_SECONDS)
        first = next(followed)  # an unavailable store is an error before the stream starts
        formatted = partial(format_change, links=context.links)
        return streams.answer(_blocks(first, followed, formatted), may_stay=authenticator.key_still_valid())


def _add_farm(blueprint: flask.Blueprint, context: ApiContext) -> None:
    """Add the routes that show the queue and the models."""
    service, authenticator, stats = context.service, context.authenticator, context.farm.stats

    @blueprint.get("/queue")
    def queue() -> answers.FarmQueue:
        caller = authenticator.caller()
        query.refuse_others()
        return _queue(stats.queues(), Reading.of(context.farm.redis), caller)

    @blueprint.get("/bulks")
    def bulks() -> answers.FarmBulks:
        caller = authenticator.caller()
        query.refuse_others()
        now_us = stats.now_us()
        return {"bulks": [native.bulk(bulk, now_us=now_us) for bulk in context.farm.bulk_service.open_bulks(caller)]}

    @blueprint.get("/models")
    def models() -> answers.FarmModels:
        caller = authenticator.caller()
        query.refuse_others()
        served = service.served()
        workers = stats.workers() if caller.is_admin else None
        return {
            "models": [
                {
                    "name": model.name,
                    "title": model.title,
                    "ids": list(service.ids(model)),
                    "served": service.offers(model),
                    "weights": served[model.name].weights or None if model.name in served else None,
                    "safety": served[model.name].safety if model.name in served else None,
                    "limits": native.model_limits(model),
                    "workers": None if workers is None else _workers_of(model, workers),
                }
                for model in MODELS
            ]
        }


def _add_operations(blueprint: flask.Blueprint, context: ApiContext) -> None:
    """Add the routes for admins: workers, pause and resume."""
    service, authenticator, stats = context.service, context.authenticator, context.farm.stats

    @blueprint.get("/workers")
    def workers() -> answers.FarmWorkers:
        authenticator.refuse_all_but_admins("see the workers")
        query.refuse_others()
        now_us, running = stats.now_us(), stats.running()
        return {
            "workers": [_worker(worker, running.get(worker.id, []), now_us) for worker in stats.workers()],
            "storage_errors": [_storage_error(error, now_us) for error in context.farm.tally.storage_errors.last()],
        }

    @blueprint.post("/workers/<worker_id>/drain")
    def drain(worker_id: str) -> tuple[answers.DrainingWorker, int]:
        authenticator.refuse_all_but_admins("drain a worker")
        query.refuse_others()
        refuse_fields()
        service.drain(worker_id)
        return {"id": worker_id, "draining": True}, 202

    @blueprint.post("/pause")
    def pause() -> answers.Pause:
        authenticator.refuse_all_but_admins("pause the farm")
        query.refuse_others(*_GROUP_KINDS)
        refuse_fields(_IN_THE_QUERY)
        service.pause(_group(context.farm.callers))
        return _pause(stats)

    @blueprint.post("/resume")
    def resume() -> answers.Pause:
        authenticator.refuse_all_but_admins("resume the farm")
        query.refuse_others(*_GROUP_KINDS)
        refuse_fields(_IN_THE_QUERY)
        service.resume(_group(context.farm.callers))
        return _pause(stats)


def _workers_of(model: Model, workers: Iterable[Worker]) -> list[answers.ModelWorker]:
    """Return the workers that have a model loaded."""
    having = (worker for worker in workers if model.name in native.loaded_models(worker.facts))
    return [native.model_worker(worker.id, worker.facts) for worker in having]


def _owner(authenticator: Authenticator, api_keys: ApiKeyStore) -> str | None:
    """Return the caller whose jobs the query asks for; None if it names no one. Raises Forbidden."""
    named = flask.request.args.get("caller")
    if named is None:
        return None
    authenticator.refuse_all_but_admins("list the jobs of one caller")
    return api_keys.name_of(named)


def _group(api_keys: ApiKeyStore) -> Group | None:
    """Return the group of jobs that the query names; None: the whole farm. Raises InvalidRequest or UnknownModel."""
    given = flask.request.args.to_dict()
    if len(given) > 1:
        raise InvalidRequest([Problem(name, "give one of model, priority and caller", "too_many") for name in given])
    match given:
        case {"model": model_id}:
            return Group("model", _model_named(model_id))
        case {"priority": priority} if priority not in PRIORITIES:
            raise InvalidRequest([Problem("priority", f"allowed: {', '.join(PRIORITIES)}", "enum", priority)])
        case {"priority": priority}:
            return Group("priority", priority)
        case {"caller": name_or_id}:
            return Group("caller", api_keys.name_of(name_or_id))
    return None


def _model_named(model_id: str) -> str:
    model = find(model_id)
    if model is None:
        raise UnknownModel(f"No model has the id '{model_id}'.")
    return model.name


def _pause(stats: StoreStats) -> answers.Pause:
    return {"paused": stats.is_paused(), "paused_groups": [_paused_group(one) for one in stats.paused_groups()]}


def _paused_group(paused: PausedGroup) -> answers.PausedGroup:
    return {"kind": paused.group.kind, "name": paused.group.name, "since": clock.iso(paused.since_us)}


def _may_see(caller: Caller, group: Group) -> bool:
    return caller.is_admin or group.kind != "caller" or group.name == caller.id


def _queue(queues: Sequence[Queue], reading: Reading, caller: Caller) -> answers.FarmQueue:
    found = backlogs(reading)
    work_seconds = round(sum(backlog.work_seconds for backlog in found), 3)
    states = _states_of(reading.workers)
    return {
        "paused": reading.is_paused,
        "paused_groups": [_paused_group(one) for one in reading.paused_groups if _may_see(caller, one.group)],
        "unprepared": sum(reading.unprepared(backlog.model) for backlog in found),
        "waiting": sum(queue.jobs for queue in queues),
        "processing": reading.processing,
        "queues": [
            {"model": q.model, "priority": q.priority, "jobs": q.jobs, "oldest_seconds": q.oldest_seconds}
            for q in queues
        ],
        "waiting_jobs": sum(backlog.waiting_jobs for backlog in found) + reading.delayed,
        "waiting_images": sum(backlog.waiting_images for backlog in found),
        "work_seconds": work_seconds,
        "paused_seconds": round(sum(backlog.paused_seconds for backlog in found), 3),
        "oldest_seconds": max(backlog.oldest_seconds for backlog in found),
        "workers": states,
        "drained_at": _drained_at(work_seconds, states, reading, is_paused=reading.is_paused),
        "models": [_model_backlog(backlog, reading) for backlog in found],
    }


def _model_backlog(backlog: Backlog, reading: Reading) -> answers.ModelBacklog:
    states = _states_of(each for each in reading.workers if backlog.model in native.loaded_models(each.facts))
    is_paused = reading.is_model_paused(backlog.model)
    drained_at = _drained_at(backlog.work_seconds, states, reading, is_paused=is_paused)
    return {**asdict(backlog), "workers": states, "drained_at": drained_at}  # type: ignore[typeddict-item]  # same names


def _states_of(workers: Iterable[Worker]) -> dict[str, int]:
    counts = Counter(worker.facts.get("state", "unknown") for worker in workers)
    return {state: counts[state] for state in dict.fromkeys([*WORKER_STATES, *counts])}


def _drained_at(work_seconds: float, states: Mapping[str, int], reading: Reading, *, is_paused: bool) -> str | None:
    """Return when the warm workers will have done the work; None without one or while it is paused."""
    if is_paused or not states["warm"]:
        return None
    return clock.iso(reading.now_us + round(work_seconds / states["warm"] * 1e6))


def _worker(worker: Worker, running: Sequence[Job], now_us: int) -> answers.FarmWorker:
    return native.worker(worker.id, worker.facts, running, silent_seconds=worker.silent_seconds, now_us=now_us)


def _storage_error(error: OperationError, now_us: int) -> answers.StorageError:
    return {
        "operation": error.operation,
        "reason": error.reason,
        "at": clock.iso(error.at_us),
        "seconds_ago": max(0.0, (now_us - error.at_us) / 1e6),
    }


def _replayed(accepted: Accepted) -> dict[str, str]:
    """Return the header of an answer about a job that existed already."""
    return {"Idempotent-Replayed": "true"} if accepted.repeated else {}


def _endpoint(body: dict[str, Any]) -> str:
    endpoint = body.get("model")
    if not isinstance(endpoint, str):
        kind = "missing" if endpoint is None else "string_type"
        raise InvalidRequest([Problem("model", "a model id is required, as a string", kind, endpoint)])
    return endpoint


def _states() -> frozenset[State]:
    text = flask.request.args.get("status")
    if text is None:
        return frozenset(State)
    if text not in list(State):
        raise InvalidRequest([Problem("status", f"allowed: {', '.join(State)}", "enum", text)])
    return frozenset({State(text)})


def _job_blocks(
    updates: Iterator[Job | tuple[str, Preview] | None], links: Links, *, with_ids: bool = True
) -> Iterator[str]:
    """Yield the events of jobs, each with the whole job, and previews. Ids are those of one job, and increase."""
    try:
        for seen in updates:
            yield COMMENT if seen is None else _job_event(seen, links, with_id=with_ids)
    except FarmError as error:
        # The response has started, so the error is an event; the client reconnects.
        yield event("error", {"code": error.code, "message": str(error)})


def _job_event(seen: Job | tuple[str, Preview], links: Links, *, with_id: bool) -> str:
    if isinstance(seen, tuple):  # without an id: a client that reconnects resumes after the job's last event
        return event("preview", native.preview(*seen))
    data = {"sequence": seen.sequence, **native.view(seen, links)}
    return event(f"job.{seen.state}", data, f"{seen.sequence}.{seen.step}" if with_id else "")


def _blocks(first: FeedPage, pages: Iterator[FeedPage], format_change: Callable[[Change], str]) -> Iterator[str]:
    """Yield the events of all jobs. Without events, `listening` has the id from which a client can resume."""
    yield _feed_events(first, format_change) or _listening(first)
    for page in pages:
        yield _feed_events(page, format_change) or COMMENT + _listening(page)


def _feed_events(page: FeedPage, format_change: Callable[[Change], str]) -> str:
    gap = event("gap", {"message": _GAP}) if page.gap else ""
    return gap + "".join(map(format_change, page.changes))


def _listening(page: FeedPage) -> str:
    return event("listening", {}, str(page.upto))


def _change_event(change: Change, links: Links) -> str:
    return event(f"job.{change.state}", native.change(change, links), str(change.moment))
