"""Rate limits over HTTP: the RateLimit headers, and refusals repeated without asking the job store."""

from __future__ import annotations

from dataclasses import dataclass

import flask

from api.http import errors
from farm import clock
from farm.auth.api_keys import Caller
from farm.domain.errors import LimitReached
from farm.domain.limits import Limits, Quota, left_field, policy_field
from farm.service import Service

#: Longest time for which a refusal is repeated, in seconds, whatever it says: Redis's clock may be set anew.
_MAX_REPEAT_SECONDS = 60.0


@dataclass(frozen=True, slots=True)
class _Refused:
    """A refusal, the limits that led to it, and its time."""

    error: LimitReached
    limits: Limits
    at: float


class RateLimiter:
    """Remembers recent refusals: a caller that retries too soon costs no more than the check of its key."""

    def __init__(self, service: Service) -> None:
        self._service = service
        self._refused: dict[str, _Refused] = {}

    def install(self, app: flask.Flask) -> None:
        """Answer every LimitReached of `app`."""
        app.register_error_handler(LimitReached, self._answer)

    def refuse_again(self, caller: Caller, idempotency_key: str) -> None:
        """Raise LimitReached again while this caller's last refusal stands.

        A repeated submit with a known Idempotency-Key passes: it makes no new job.
        """
        refused = self._refused.get(caller.id)
        if refused is None:
            return
        elapsed = clock.monotonic() - refused.at
        if elapsed >= min(refused.error.stands_seconds, _MAX_REPEAT_SECONDS) or caller.limits != refused.limits:
            self._refused.pop(caller.id, None)
        elif not self._service.has_idempotency_key(caller, idempotency_key):
            raise refused.error.later(elapsed)

    def _answer(self, error: LimitReached) -> flask.Response:
        caller: Caller = flask.g.caller
        if caller.id not in self._refused:
            self._refused[caller.id] = _Refused(error, caller.limits, clock.monotonic())
        note(error.quotas)
        return errors.answer(error.call_failure.status, error)


def note(quotas: tuple[Quota, ...]) -> None:
    """Add the RateLimit headers to the answer to the current submit."""
    if not quotas:
        return

    @flask.after_this_request
    def tell(response: flask.Response) -> flask.Response:
        response.headers["RateLimit-Policy"] = policy_field(quotas)
        response.headers["RateLimit"] = left_field(quotas)
        return response
