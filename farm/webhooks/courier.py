"""The courier: claims deliveries that are due, posts each, and records the outcome."""

from __future__ import annotations

import uuid
from collections.abc import Callable, Mapping, Sequence

import structlog

from farm import __version__, clock
from farm.concurrency.leased_pool import LeasedPool, Taken
from farm.concurrency.retry import jittered, retrying
from farm.dialects.links import Links
from farm.domain.delivery import TEST, Attempt, Due, Outcome
from farm.domain.errors import FarmError, ForbiddenAddress, StoreFull, StoreUnavailable
from farm.domain.job import Job
from farm.jobstore.store import JobStore
from farm.ssrf_safe_http import Reply, SsrfSafeClient
from farm.tracing import tracer
from farm.tracing.span import Fact
from farm.webhooks import message
from farm.webhooks.message import Message
from farm.webhooks.secrets import Secrets
from farm.webhooks.store import DeliveryStore

#: Concurrent posts of one courier, over all receivers.
MAX_CONCURRENT_POSTS = 64
#: Lease of a delivery in seconds, after which another courier may claim it. A post takes less.
LEASE_SECONDS = 60.0
#: A pause is up to this fraction longer than its schedule says, so that many retries spread out.
JITTER = 0.2
#: Longest pause that a receiver may ask for, in seconds.
MAX_RETRY_AFTER = 3600.0
#: The receiver is gone for good.
_GONE = 410
#: Characters of a response that are kept.
_KEPT_CHARACTERS = 512
#: How long a call to a job store that does not answer is retried, in seconds: for less than the lease.
_STORE_SECONDS = 30.0

_log = structlog.get_logger(__name__)


class Courier:
    """Delivers what is due. One slow receiver does not delay deliveries to another receiver."""

    def __init__(
        self,
        deliveries: DeliveryStore,
        *,
        store: JobStore,
        outbound: SsrfSafeClient,
        secrets: Secrets,
        links: Callable[[Job], Links],
        schedules: Mapping[str, Sequence[float]],
        worker: str = "",
    ) -> None:
        """`worker` is the id of this process, by which its death is reported."""
        self._deliveries = deliveries
        self._store = store
        self._outbound = outbound
        self._secrets = secrets
        self._links = links
        self._schedules = schedules
        self._worker = worker
        self._pool = LeasedPool("post", MAX_CONCURRENT_POSTS, take=self._take, handle=self._attempt)

    def work(self) -> None:
        """Start deliveries until none is due or all threads are busy."""
        self._pool.work()

    def drain(self) -> None:
        """Start no more deliveries. Safe in a signal handler."""
        self._pool.drain()

    def close(self) -> None:
        """Drain, and wait for the deliveries in progress."""
        self._pool.close()

    def _take(self) -> Taken[Due] | None:
        """Claim a delivery, with one nonce for all retries: a claim whose answer is lost would hold up its receiver."""
        nonce = uuid.uuid4().hex
        retry = retrying(StoreUnavailable, max_seconds=_STORE_SECONDS, stop_event=self._pool.draining)
        found = retry(self._deliveries.claim, 1, lease_seconds=LEASE_SECONDS, nonce=nonce, worker=self._worker)
        return Taken(found[0], is_last=not found[0].others_due) if found else None

    def _attempt(self, due: Due) -> bool:
        """Attempt a delivery and record the outcome; return True if any delivery is due now."""
        job = None if due.url else self._store.get(due.job)
        if not due.url and (job is None or job.webhook is None or message.is_stale(due, job)):
            return self._record(due, Outcome.DROPPED)
        schedule = (
            () if due.event == TEST else self._schedules.get(job.dialect if job else "", self._schedules["native"])
        )
        at_us, began = due.claimed_us, clock.monotonic()
        try:
            reply = self._post(due, job)
        except (StoreUnavailable, StoreFull):
            raise  # its lease brings it back: this says nothing about the receiver or the message
        except Exception as error:  # noqa: BLE001  # whatever it is, it is recorded, and the delivery ends
            attempt = Attempt(at_us, _since(began), error=_error_text(error))
            outcome, pause = _outcome_of_error(error, due, schedule)
        else:
            attempt = Attempt(
                at_us, _since(began), reply.status, answer=reply.body.decode(errors="replace")[:_KEPT_CHARACTERS]
            )
            outcome, pause = _outcome(reply, due, schedule)
        any_is_due = self._record(due, outcome, attempt, pause_seconds=pause)
        _log_attempt(due, job, attempt, outcome, pause)
        return any_is_due

    def _post(self, due: Due, job: Job | None) -> Reply:
        """Make the attempt, in a span of the job's trace; the receiver gets the span's trace context."""
        if job is None:
            return self._send(self._message(due, None))
        facts: dict[str, Fact] = {
            "job": due.job,
            "delivery": due.id,
            "delivery_attempt": due.attempts_made + 1,
            "receiver": due.receiver,
            "event": due.event,
        }
        with tracer.start("deliver webhook", job.origin.traceparent, facts, kind="client") as span:
            reply = self._send(self._message(due, job.in_trace(span.traceparent)))
            span.add(status=reply.status)
            if not 200 <= reply.status < 300:
                span.fail(f"status {reply.status}")
        return reply

    def _send(self, message: Message) -> Reply:
        return self._outbound.post(message.url, message.body, headers=_headers(message))

    def _message(self, due: Due, job: Job | None) -> Message:
        """Return the message about a job or, if there is none, the one that needs no record."""
        if job is None:
            return message.without_job(due, secrets=self._secrets)
        return message.for_job(job, due, links=self._links(job), secrets=self._secrets)

    def _record(self, due: Due, outcome: Outcome, attempt: Attempt | None = None, *, pause_seconds: float = 0) -> bool:
        """Record an outcome, with retries: a job store that is away for a moment causes no second post.

        Return True if any delivery is due now.
        """
        retry = retrying((StoreUnavailable, StoreFull), max_seconds=_STORE_SECONDS)
        return retry(self._deliveries.finish, due, outcome, attempt, pause_seconds=pause_seconds)


def _log_attempt(due: Due, job: Job | None, attempt: Attempt, outcome: Outcome, pause: float) -> None:
    """Log an attempt: a retry is a warning, and the end without success an error."""
    write = {Outcome.WAITING: _log.warning, Outcome.FAILED: _log.error}.get(outcome, _log.info)
    write(
        "webhook attempted",
        delivery=due.id,
        job=due.job,
        request_id=(job.origin.request_id or None) if job else None,
        receiver=due.receiver,
        delivery_attempt=due.attempts_made + 1,
        status=attempt.status,
        error=attempt.error or None,
        seconds=attempt.seconds,
        outcome=outcome.value,
        next_seconds=round(pause, 3) if outcome is Outcome.WAITING else None,
    )


def _headers(webhook_body: Message) -> Mapping[str, str]:
    return {"Content-Type": "application/json", "User-Agent": f"srpo-farm/{__version__}", **webhook_body.headers}


def _since(began: float) -> float:
    return round(clock.monotonic() - began, 6)


def _outcome(reply: Reply, due: Due, schedule: Sequence[float]) -> tuple[Outcome, float]:
    """Return the outcome of a response: 2xx delivers, 3xx and 410 fail, everything else is retried."""
    if 200 <= reply.status < 300:
        return Outcome.DELIVERED, 0
    if 300 <= reply.status < 400 or reply.status == _GONE:
        return Outcome.FAILED, 0
    return _retry(due, schedule, min_pause=_retry_after(reply))


def _error_text(error: Exception) -> str:
    """Return what the record says of an attempt without a response. Faults of the farm itself go to the log only."""
    if isinstance(error, FarmError):
        return str(error)
    _log.error("webhook not sent", exc_info=error)
    return str(FarmError())


def _outcome_of_error(error: Exception, due: Due, schedule: Sequence[float]) -> tuple[Outcome, float]:
    # A name that resolves to a forbidden address is not retried: it may be an attack.
    if isinstance(error, ForbiddenAddress):
        return Outcome.FAILED, 0
    return _retry(due, schedule, min_pause=0)


def _retry(due: Due, schedule: Sequence[float], *, min_pause: float) -> tuple[Outcome, float]:
    if due.attempts_made >= len(schedule):
        return Outcome.FAILED, 0
    pause = jittered(schedule[due.attempts_made], 1, 1 + JITTER)
    return Outcome.WAITING, max(pause, min_pause)


def _retry_after(reply: Reply) -> float:
    """Return the seconds of Retry-After (RFC 9110, section 10.2.3), or 0.0; its form as a date is not read."""
    text = reply.headers.get("retry-after", "")
    return min(float(text), MAX_RETRY_AFTER) if text.isascii() and text.isdigit() else 0.0
