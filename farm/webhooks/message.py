"""Webhook messages: the body in the dialect of the job, signed anew for each attempt."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from farm.dialects import native, openai_batch, registry
from farm.dialects.links import Links
from farm.domain import trace_context
from farm.domain.delivery import Due, is_about_a_bulk
from farm.domain.job import Job, Origin, State
from farm.webhooks import signing
from farm.webhooks.json_encoding import encoded
from farm.webhooks.secrets import Secrets


@dataclass(frozen=True, slots=True)
class Message:
    """One signed POST."""

    url: str
    headers: Mapping[str, str]
    body: bytes


def is_stale(due: Due, job: Job) -> bool:
    """Return True if a later state has made this event useless. The end of a job is always delivered."""
    if due.is_manual or State(due.event).is_terminal:
        return False
    return job.state.is_terminal or (due.attempts_made > 0 and job.sequence > due.sequence)


def for_job(job: Job, due: Due, *, links: Links, secrets: Secrets) -> Message:
    """Return the message of the delivery `due` about `job`, in its dialect."""
    assert job.webhook is not None, "a delivery of a job has a webhook"
    headers, body = _signed_body(job, due, links, secrets)
    return Message(job.webhook.url, {**headers, **_origin_headers(job.origin)}, body)


def without_job(due: Due, *, secrets: Secrets) -> Message:
    """Return the message about the end of a bulk, or that with which a caller tests a receiver."""
    body = encoded(openai_batch.event(due) if is_about_a_bulk(due.event) else native.test_event(due))
    return Message(due.url, _standard(due, body, secrets), body)


def _origin_headers(origin: Origin) -> dict[str, str]:
    """Return the headers by which a receiver finds the call that submitted the job, and its trace."""
    headers = {"X-Request-Id": origin.request_id, trace_context.HEADER: origin.traceparent}
    return {name: value for name, value in headers.items() if value}


def _signed_body(job: Job, due: Due, links: Links, secrets: Secrets) -> tuple[Mapping[str, str], bytes]:
    dialect = registry.by_name(job.dialect)
    assert dialect.webhook_body is not None, "a job with a webhook was asked for in a dialect that has them"
    body = encoded(dialect.webhook_body(job, due, links))
    match dialect.signature:
        case "fal":
            key = secrets.signing_key()
            return signing.fal(key, request_id=job.id, user_id=job.caller, timestamp=_signed_at(due), body=body), body
        case "wavespeed":
            secret = secrets.of(job.caller)
            return signing.wavespeed(secret, message_id=due.id, timestamp=_signed_at(due), body=body), body
        case "standard":
            return _standard(due, body, secrets), body


def _standard(due: Due, body: bytes, secrets: Secrets) -> Mapping[str, str]:
    return signing.standard(secrets.of(due.caller), message_id=due.id, timestamp=_signed_at(due), body=body)


def _signed_at(due: Due) -> int:
    """Return the time of the signature, by Redis's clock: receivers refuse one whose time is minutes off."""
    return due.claimed_us // 1_000_000
