"""A job as Redis holds it, a hash of strings, and as the farm knows it."""

from __future__ import annotations

from typing import cast

from pydantic import TypeAdapter

from farm.job import Job, Result, State, Webhook
from farm.request import Priority, Request

_RESULT = TypeAdapter(Result)


def job_from(job_id: str, fields: dict[str, str]) -> Job:
    """The record behind a hash's `fields`."""
    result = fields.get("result")
    return Job(
        id=job_id,
        state=State(fields["state"]),
        caller=fields["caller"],
        endpoint=fields["endpoint"],
        request=Request.model_validate_json(fields["request"]),
        priority=cast(Priority, fields["priority"]),
        dialect=fields.get("dialect", "native"),
        webhook=_webhook(fields),
        inline=fields.get("inline") == "1",
        code=fields.get("code", ""),
        error=fields.get("error", ""),
        attempt=int(fields["attempt"]),
        fence=int(fields["fence"]),
        sequence=int(fields["sequence"]),
        step=int(fields["step"]),
        cancelling=fields.get("cancelling") == "1",
        created_us=int(fields["created_us"]),
        started_us=int(fields.get("started_us", 0)),
        finished_us=int(fields.get("finished_us", 0)),
        result=result_from(result) if result else None,
    )


def _webhook(fields: dict[str, str]) -> Webhook | None:
    if "webhook" not in fields:
        return None
    return Webhook(fields["webhook"], frozenset(State(name) for name in fields["webhook_events"].split(",")))


def result_text(result: Result) -> str:
    return _RESULT.dump_json(result).decode()


def result_from(text: str) -> Result:
    return _RESULT.validate_json(text)
