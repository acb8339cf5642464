"""Conversion between a job and its record in Redis, a hash of strings."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import cast

from pydantic import TypeAdapter

from farm.domain.job import Conditions, Job, NewJob, Origin, Result, Run, State, Webhook
from farm.domain.request import Request
from farm.domain.scheduling import QueuePriority
from farm.jobstore import redis_keys

_RESULT = TypeAdapter(Result)

Fields = dict[str, str | int | float]


#: Redis's memory for a job besides the values of its fields: their names, its places in queues and indexes, its events.
#: In bytes: between a record in one piece, as the embedded Redis keeps most (`hash-max-listpack-value`), and a table.
_JOB_BYTES = 1400


def _memory_bytes(fields: Fields) -> int:
    """Return about how much of Redis's memory a new job takes. The allocator rounds up: a quarter more is measured."""
    sent = len("".join(map(str, fields.values())).encode())
    return _JOB_BYTES + sent * 5 // 4


def fields_of(new: NewJob) -> Fields:
    """Return the record of a new job; the script that accepts it adds what only the store knows."""
    order, request, conditions = new.order, new.order.request, new.order.conditions
    unprepared = request.needs_preparation
    fields: Fields = {
        "caller": new.caller,
        "endpoint": order.endpoint,
        "dialect": order.dialect,
        "priority": order.priority,
        "model": request.model,
        "queue": redis_keys.queue_name(redis_keys.UNPREPARED if unprepared else request.model, order.priority),
        # Preparation costs the same for every request.
        "cost": 1 if unprepared else request.cost,
        "batch_key": request.batch_key,
        "images": request.images,
        "request": request.model_dump_json(),
    }
    if order.inline:
        fields["inline"] = 1
    if order.webhook:
        events = ",".join(sorted(order.webhook.events))
        fields |= {"webhook": order.webhook.url, "receiver": order.webhook.receiver, "webhook_events": events}
    if not request.safety:
        fields["unchecked"] = 1
    if conditions.keep_seconds:
        fields["keep_us"] = round(conditions.keep_seconds * 1e6)
    if not conditions.may_retry:
        # Rendered alone, so that it does not fail with the crash of another.
        fields |= {"no_retry": 1, "render_alone": 1}
    if not conditions.keeps_payload:
        fields["redacted_request"] = redacted(request)
    if conditions.runner_hint:
        fields["affinity"] = conditions.runner_hint
    if new.base:
        fields["base"] = new.base
    if new.retry_of:
        fields["retry_of"] = new.retry_of
    if new.line:
        line = new.line
        fields |= {"bulk": line.bulk, "kept_until_us": line.kept_until_us, "result_format": line.result_format}
    origin = new.origin
    if origin.request_id:
        fields["request_id"] = origin.request_id
    if origin.key_id:
        fields["key_id"] = origin.key_id
    if origin.traceparent:
        fields["traceparent"] = origin.traceparent
    fields["bytes"] = _memory_bytes(fields)
    return fields


def origin_from(fields: Mapping[str, str]) -> Origin:
    """Return the origin of a job from the fields of its record."""
    return Origin(fields.get("request_id", ""), fields.get("key_id", ""), fields.get("traceparent", ""))


#: The fields of a record that `conditions_from` takes.
CONDITIONS = ("created_us", "start_deadline_us", "keep_us", "no_retry", "affinity")


def conditions_from(values: Sequence[str | None]) -> Conditions:
    """Return the conditions of a job whose payload is kept, from the values of the fields `CONDITIONS`."""
    created_us, start_deadline_us, keep_us, no_retry, affinity = values
    return Conditions(
        start_within=(int(start_deadline_us) - int(created_us or 0)) / 1e6 if start_deadline_us else 0.0,
        keep_seconds=int(keep_us) / 1e6 if keep_us else 0.0,
        may_retry=not no_retry,
        runner_hint=affinity or "",
    )


def runs_from(fields: Mapping[str, str], *, host: str) -> list[Run]:
    """Return the runs in a record: those that have ended, and the present one, on a worker of this host."""
    ended = [
        Run(**run | {"started_us": int(run["started_us"]), "ended_us": int(run["ended_us"])})
        for run in json.loads(fields.get("runs", "[]"))
    ]
    if fields.get("state") != State.PROCESSING:
        return ended
    present = Run(fields["worker"], host, int(fields["started_us"]), 0, int(fields["step"]), "")
    # A worker that was only slow goes on with a run that had been taken for ended.
    return [*(run for run in ended if run.started_us != present.started_us), present]


def redacted(request: Request) -> str:
    """Return the request without its prompts and images."""
    nothing = {"prompt": "", "original_prompt": None, "sources": (), "inputs": (), "enhance": False}
    return request.model_copy(update=nothing).model_dump_json()


def job_from(job_id: str, fields: dict[str, str]) -> Job:
    """Return the job of a record."""
    result = fields.get("result")
    return Job(
        id=job_id,
        state=State(fields["state"]),
        caller=fields["caller"],
        endpoint=fields["endpoint"],
        request=_request_from(fields["request"]),
        priority=cast(QueuePriority, fields["priority"]),
        dialect=fields.get("dialect", "native"),
        webhook=_webhook(fields),
        inline=fields.get("inline") == "1",
        code=fields.get("code", ""),
        error=fields.get("error", ""),
        attempt=int(fields["attempt"]),
        fence=int(fields["fence"]),
        sequence=int(fields["sequence"]),
        step=int(fields["step"]),
        cancelling="stop_code" in fields,
        created_us=int(fields["created_us"]),
        started_us=int(fields.get("started_us", 0)),
        finished_us=int(fields.get("finished_us", 0)),
        result=result_from(result) if result else None,
        base=fields.get("base", ""),
        retry_of=fields.get("retry_of", ""),
        retried_as=fields.get("retried_as", ""),
        result_format=fields.get("result_format", ""),
        origin=origin_from(fields),
    )


def _webhook(fields: dict[str, str]) -> Webhook | None:
    if "webhook" not in fields:
        return None
    return Webhook(fields["webhook"], frozenset(State(name) for name in fields["webhook_events"].split(",")))


def result_text(result: Result) -> str:
    return _RESULT.dump_json(result).decode()


# Callers poll a job again and again, and these two never change: they are parsed once.
@lru_cache(maxsize=1024)
def result_from(text: str) -> Result:
    return _RESULT.validate_json(text)


@lru_cache(maxsize=1024)
def _request_from(text: str) -> Request:
    return Request.model_validate_json(text)
