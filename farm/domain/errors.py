"""Every error the farm raises on purpose: one root, branches by cause. No HTTP here; the API maps codes to statuses."""

from __future__ import annotations

import inspect
import math
from collections.abc import Mapping
from dataclasses import dataclass

from farm.domain.limits import Quota


class FarmError(Exception):
    """The farm failed in a way that it did not foresee."""

    #: Stable word for programs; stored with a failed job and sent to callers.
    code = "internal_error"

    def __init__(self, message: str | None = None) -> None:
        super().__init__(message or inspect.getdoc(type(self)))


class ConfigurationError(FarmError):
    """A setting cannot be used."""

    code = "configuration_error"


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field: where, what, what is allowed, and the value that was sent."""

    field: str
    message: str
    kind: str
    value: object = None
    #: The limits that were broken, for programs.
    context: Mapping[str, object] | None = None


class InvalidRequest(FarmError):
    """The request is not valid."""

    code = "invalid_request"

    def __init__(self, problems: list[Problem]) -> None:
        self.problems = problems
        super().__init__("; ".join(f"{p.field}: {p.message}" if p.field else p.message for p in problems))


class UnknownModel(FarmError):
    """No model has this id."""

    code = "unknown_model"


class ModelNotServed(FarmError):
    """The model is known, but no worker of this farm has it loaded."""

    code = "model_not_served"


class NotReady(FarmError):
    """No worker has been ready since this farm was set up; try again when one is warm."""

    code = "not_ready"
    #: Seconds after which a new try makes sense.
    retry_after = 5


class NotFound(FarmError):
    """Nothing is here under this name."""

    code = "not_found"


class Unauthorized(FarmError):
    """No valid API key came with the request."""

    code = "unauthorized"


class Forbidden(FarmError):
    """This key may not do that."""

    code = "forbidden"


class QueueFull(FarmError):
    """Too many of this caller's jobs are waiting; come back when some are done."""

    code = "queue_full"
    #: Seconds after which a new try makes sense.
    retry_after = 5


class LimitReached(QueueFull):
    """The caller has used up what it may ask for; there will be more."""

    #: Each limit has its own instead: `queue_full`, `rate_limited`, `images_used_up`.
    code = "limit_reached"

    def __init__(
        self,
        message: str | None = None,
        *,
        code: str = code,
        seconds: float = 1.0,
        stands_seconds: float = 0.0,
        quotas: tuple[Quota, ...] = (),
    ) -> None:
        """After `seconds` a new try makes sense; for `stands_seconds` any would be refused."""
        super().__init__(message)
        self.code = code
        self.quotas = quotas
        self.stands_seconds = stands_seconds
        self.retry_after = max(1, math.ceil(seconds))
        self._seconds = seconds

    def later(self, seconds: float) -> LimitReached:
        """The same, so many seconds on."""
        return LimitReached(
            str(self),
            code=self.code,
            seconds=self._seconds - seconds,
            stands_seconds=self.stands_seconds - seconds,
            quotas=tuple(quota.later(seconds) for quota in self.quotas),
        )


class StoreFull(QueueFull):
    """The job store has reached the memory it may use for new jobs; come back when some are done."""

    code = "store_full"


class TooManyHeld(FarmError):
    """Too many calls wait for their answers already; use the queue, or come back."""

    code = "concurrent_requests_limit"
    #: Seconds after which a new try makes sense.
    retry_after = 2


class StoreUnavailable(FarmError):
    """The job store (Redis) does not answer."""

    code = "store_unavailable"
    #: Seconds after which a new try makes sense.
    retry_after = 2


class IdempotencyConflict(FarmError):
    """This Idempotency-Key came before with another body."""

    code = "idempotency_conflict"


class NotFinished(FarmError):
    """The job has not ended yet; cancel it first."""

    code = "not_finished"


class NotRetryable(FarmError):
    """The job cannot be asked for once more."""

    code = "not_retryable"


class ForbiddenAddress(FarmError):
    """The farm may not call this address."""

    code = "forbidden_address"


class Unreachable(FarmError):
    """The address could not be reached, or gave no whole answer."""

    code = "unreachable"


class TooLarge(Unreachable):
    """What is at the address is larger than may be read."""

    code = "answer_too_large"


class StorageError(FarmError):
    """The image could not be stored."""

    code = "storage_failed"


class StorageUnavailable(StorageError):
    """The image storage does not answer as it should; it may later."""

    code = "storage_unavailable"
    #: Seconds after which a new try makes sense.
    retry_after = 5


class RenderError(FarmError):
    """The pipeline could not render the image."""

    code = "render_failed"


class OutOfMemory(RenderError):
    """The image did not fit into the memory of the device."""

    code = "out_of_memory"


class SafetyError(FarmError):
    """The image could not be checked, so it was not published."""

    code = "safety_check_failed"
