"""The log lines about jobs: one for each event of a job's life, all with the same fields, and none with its prompt."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import redis
import structlog

from farm.domain import trace_context
from farm.domain.error_codes import Code, job_failure
from farm.domain.job import Claimed, NewJob, Origin, Result
from farm.domain.measures import DRAINED, WORKER_LOST
from farm.domain.request import Request
from farm.jobstore import redis_keys

#: The fields of a record that a line is made from.
_FIELDS = ("code", "attempt", "model", "worker", "request_id", "key_id", "traceparent", "created_us", "started_us")
#: Codes of jobs that were stopped because nobody wants their images any longer.
_STOPPED = (Code.CANCELLED, Code.CLIENT_DISCONNECTED)

_log = structlog.get_logger("farm.jobs")


class JobLog:
    """Logs the events of jobs. Of jobs that are known by their ids only it reads the records."""

    def __init__(self, client: redis.Redis) -> None:
        self._redis = client

    def accepted(self, job_id: str, new: NewJob, *, repeated: bool) -> None:
        order, origin = new.order, new.origin
        _log.info(
            "job repeated" if repeated else "job accepted",
            job=job_id,
            attempt=0,
            model=order.request.model,
            request_id=origin.request_id or None,
            key=origin.key_id or None,
            **_trace(origin),
            images=order.request.images,
            priority=order.priority,
            dialect=order.dialect,
        )

    def claimed(self, jobs: Iterable[Claimed]) -> None:
        for job in jobs:
            _log.info("job claimed", **_of(job), images=job.request.images, wait=job.wait_seconds)

    def completed(self, job: Claimed, result: Result) -> None:
        timings, wait = result.timings, job.wait_seconds
        render = timings.get("inference", 0.0)
        _log.info("job completed", **_of(job), images=len(result.images), wait=wait, render=render, **timings)

    def lost(self, job: Claimed) -> None:
        """Log that a worker's write was refused: the job belongs to another by now, or has ended."""
        _log.warning("job lost", **_of(job))

    def returned(self, job: Claimed, reason: str, *, cause: str = "") -> None:
        """Log that a worker's job returned to its queue."""
        write = _log.info if reason == DRAINED else _log.warning
        write("job returned", **_of(job), reason=reason, cause=cause or None)

    def prepared(self, job_id: str, request: Request, origin: Origin) -> None:
        _log.info("job prepared", **_facts(job_id, request.model, 0, origin), images=request.images)

    def deleted(self, facts: Mapping[str, str], reason: str) -> None:
        """Log that a job was deleted, of which `read` returned these facts before."""
        _log.info("job deleted", **_known(facts), reason=reason)

    def ended(self, job_ids: Iterable[str], *, exhausted: bool = False, cause: str = "") -> None:
        """Log that jobs ended without images. `cause`: why, for operators."""
        for facts in self._read(job_ids):
            _log_end(facts, exhausted=exhausted, cause=cause)

    def taken_back(self, reasons: Mapping[str, str]) -> None:
        """Log that jobs were taken from their workers: their ids, and the reasons."""
        for facts in self._read(reasons):
            reason, lost_by = reasons[facts["id"]], facts.get("worker", "")
            event = "job taken back" if reason == WORKER_LOST else "job returned"
            _log.warning(event, **_known(facts), reason=reason, from_worker=lost_by)

    def read(self, job_id: str) -> Mapping[str, str]:
        """Return what a line needs to know of a job; empty if it is gone."""
        return next(iter(self._read([job_id])), {})

    def _read(self, job_ids: Iterable[str]) -> list[dict[str, str]]:
        ids = list(job_ids)
        if not ids:
            return []
        try:
            with self._redis.pipeline(transaction=False) as pipeline:
                for job_id in ids:
                    pipeline.hmget(redis_keys.job(job_id), *_FIELDS)
                records = pipeline.execute()
        except redis.exceptions.RedisError:  # what is logged has happened: the call that did it has succeeded
            _log.warning("records of jobs not read for the log", jobs=ids)
            return []
        found = (dict(zip(_FIELDS, values, strict=True)) for values in records)
        return [{"id": job_id, **_present(facts)} for job_id, facts in zip(ids, found, strict=True) if facts["model"]]


def _log_end(facts: Mapping[str, str], *, exhausted: bool, cause: str) -> None:
    code = facts.get("code", "")
    more = _known(facts) | ({"cause": cause} if cause else {})
    if "started_us" in facts:
        more |= {"wait": round((int(facts["started_us"]) - int(facts["created_us"])) / 1e6, 3)}
    if code in _STOPPED:
        _log.info("job cancelled", **more, code=code)
    elif exhausted or code == Code.ATTEMPTS_EXHAUSTED:
        _log.error("job exhausted", **more, code=code)
    else:
        (_log.info if job_failure(code).status < 500 else _log.warning)("job failed", **more, code=code)


def _of(job: Claimed) -> dict[str, Any]:
    return _facts(job.id, job.request.model, job.attempt, job.origin)


def _known(facts: Mapping[str, str]) -> dict[str, Any]:
    origin = Origin(facts.get("request_id", ""), facts.get("key_id", ""), facts.get("traceparent", ""))
    return _facts(facts["id"], facts["model"], int(facts["attempt"]), origin)


def _facts(job_id: str, model: str, attempt: int, origin: Origin) -> dict[str, Any]:
    """Return the fields that every line about a job has."""
    return {
        "job": job_id,
        "attempt": attempt,
        "model": model,
        "request_id": origin.request_id or None,
        "key": origin.key_id or None,
        **_trace(origin),
    }


def _trace(origin: Origin) -> dict[str, str]:
    """Return the id of the job's trace, if it has one."""
    context = trace_context.parse(origin.traceparent) if origin.traceparent else None
    return {"trace": context.trace_id} if context else {}


def _present(facts: Mapping[str, str | None]) -> dict[str, str]:
    return {name: value for name, value in facts.items() if value is not None}
