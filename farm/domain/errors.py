"""Every error the farm raises on purpose: one root, branches by cause. What each means to callers: `error_codes`."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import accumulate
from typing import Self

from farm.domain.error_codes import FAILURES, CallFailure, Code
from farm.domain.limits import Quota


class FarmError(Exception):
    """An internal error, unless a subclass names another cause.

    The message is for the caller. `detail` is for logs and operators: it may name addresses, paths and buckets, and is
    never sent to a caller.
    """

    #: Stable word for programs; stored with a failed job and sent to callers.
    code: str = Code.INTERNAL_ERROR

    def __init__(self, message: str | None = None, *, detail: str = "") -> None:
        self.detail = detail
        super().__init__(message or self._default_message())

    def _default_message(self) -> str:
        return next(FAILURES[code].message for code in self._codes() if code in FAILURES)

    def _codes(self) -> list[str]:
        """Return the code, and those of the parent classes, nearest first: a code without a row is its parent's."""
        return [self.code, *(kind.code for kind in type(self).__mro__ if issubclass(kind, FarmError))]

    @property
    def call_failure(self) -> CallFailure:
        """The answer to a call that is refused for this error."""
        rows = (FAILURES[code].call for code in self._codes() if code in FAILURES)
        return next(row for row in rows if row is not None)

    @property
    def retry_after(self) -> int | None:
        """Seconds after which a retry may succeed; None where the same call fails again."""
        return self.call_failure.retry_after


def with_detail(error: BaseException) -> str:
    """Return the message of `error` and, of an error of the farm, its detail: for logs and operators."""
    detail = error.detail if isinstance(error, FarmError) else ""
    return f"{error} ({detail})" if detail else str(error)


class ConfigurationError(FarmError):
    """An unusable setting."""

    code = Code.CONFIGURATION_ERROR


class NoDevice(ConfigurationError):
    """The device to render on is not there: a wrong setting at a first start, a lost card later."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing wrong with one field: where, what, what is allowed, and the value that was sent."""

    field: str
    message: str
    kind: str
    value: object = None
    #: The limits that were broken, for programs.
    context: Mapping[str, object] | None = None
    #: The path of a field of the body that the dialect does not know; empty for any other problem.
    unknown: tuple[str | int, ...] = ()


class InvalidRequest(FarmError):
    """A request with invalid fields, each of which is named."""

    code = Code.INVALID_REQUEST

    def __init__(self, problems: list[Problem], *, more: int = 0) -> None:
        """`more`: how many further problems are left out."""
        self.problems = problems
        texts = [f"{p.field}: {p.message}" if p.field else p.message for p in problems]
        super().__init__("; ".join([*texts, f"and {more} more"] if more else texts))

    def shortened(self, max_characters: int) -> InvalidRequest:
        """Return the error with its first problems, at least one: as many as fit, with the number of the others."""
        lengths = accumulate(len(problem.field) + len(problem.message) for problem in self.problems)
        kept = max(1, sum(length <= max_characters for length in lengths))
        return InvalidRequest(self.problems[:kept], more=len(self.problems) - kept)


class ClientGone(FarmError):
    """A client that closed its connection before its request was read: nobody receives an answer."""

    code = Code.BAD_REQUEST


class UnknownModel(FarmError):
    """An unknown model id."""

    code = Code.UNKNOWN_MODEL


class ModelNotServed(FarmError):
    """A known model that no worker of this farm has loaded."""

    code = Code.MODEL_NOT_SERVED


class NotReady(FarmError):
    """A farm without a ready worker since it was set up."""

    code = Code.NOT_READY


class NotFound(FarmError):
    """An id, name or path that does not exist, or belongs to another caller."""

    code = Code.NOT_FOUND


class Unauthorized(FarmError):
    """A call without a valid API key."""

    code = Code.UNAUTHORIZED


class Forbidden(FarmError):
    """A call that this caller may not make."""

    code = Code.FORBIDDEN


class UploadComplete(Forbidden):
    """Bytes for an upload that is complete already."""

    code = Code.UPLOAD_COMPLETE


class LimitReached(FarmError):
    """A limit of the caller's on submits. The subclasses say which."""

    code = Code.LIMIT_REACHED

    def __init__(
        self,
        message: str | None = None,
        *,
        seconds: float = 1.0,
        stands_seconds: float = 0.0,
        quotas: tuple[Quota, ...] = (),
    ) -> None:
        """After `seconds` a retry may succeed; within `stands_seconds` any submit would be refused."""
        super().__init__(message)
        self.quotas = quotas
        self.stands_seconds = stands_seconds
        self._seconds = seconds

    @property
    def retry_after(self) -> int:
        """Seconds after which a retry may succeed."""
        return max(1, math.ceil(self._seconds))

    def later(self, seconds: float) -> Self:
        """Return the same refusal as it stands so many seconds later."""
        return type(self)(
            str(self),
            seconds=self._seconds - seconds,
            stands_seconds=self.stands_seconds - seconds,
            quotas=tuple(quota.later(seconds) for quota in self.quotas),
        )


class QueueFull(LimitReached):
    """Too many jobs of the caller are waiting."""

    code = Code.QUEUE_FULL


class MemoryShareUsedUp(LimitReached):
    """The waiting jobs of the caller take its share of the job store's memory."""

    code = Code.MEMORY_SHARE_USED_UP


class RateLimited(LimitReached):
    """Too many submits of the caller within a minute."""

    code = Code.RATE_LIMITED


class ImagesUsedUp(LimitReached):
    """No images left of the caller's daily quota."""

    code = Code.IMAGES_USED_UP


class QueueTooLong(FarmError):
    """A queue longer than the request itself accepts."""

    code = Code.QUEUE_TOO_LONG


class UploadQuotaExceeded(FarmError):
    """Too many bytes uploaded by the caller."""

    code = Code.UPLOAD_QUOTA_EXCEEDED


class TooManyUploads(FarmError):
    """Too many uploads started by the caller within an hour."""

    code = Code.TOO_MANY_UPLOADS


class ConcurrencyLimitReached(FarmError):
    """Too many calls of one kind at the same time: blocking calls, streams, uploads, searches or large bodies."""

    code = Code.CONCURRENT_REQUESTS_LIMIT


class StoreFull(FarmError):
    """A job store that has reached the memory it may use for new jobs."""

    code = Code.STORE_FULL


class StoreUnavailable(FarmError):
    """A job store (Redis) that does not answer."""

    code = Code.STORE_UNAVAILABLE


class EnhancerUnavailable(FarmError):
    """A prompt enhancer that did not answer in time."""

    code = Code.ENHANCER_UNAVAILABLE


class StoreDiskFull(StoreUnavailable):
    """A job store whose disk has too little space left to record a change."""

    code = Code.STORE_DISK_FULL


class IdempotencyConflict(FarmError):
    """An Idempotency-Key that was sent before with another body."""

    code = Code.IDEMPOTENCY_CONFLICT


class BulkEnded(FarmError):
    """A bulk that has ended, or is about to."""

    code = Code.BULK_ENDED


class NotFinished(FarmError):
    """A job that has not ended yet."""

    code = Code.NOT_FINISHED


class NotRetryable(FarmError):
    """A job that cannot be retried."""

    code = Code.NOT_RETRYABLE


class ForbiddenAddress(FarmError):
    """An address that the farm does not call."""

    code = Code.FORBIDDEN_ADDRESS


class Unreachable(FarmError):
    """An address that could not be reached, or sent an incomplete answer."""

    code = Code.UNREACHABLE


class TooLarge(Unreachable):
    """An answer of an address that is larger than may be read."""

    code = Code.ANSWER_TOO_LARGE


class StorageError(FarmError):
    """An image that could not be stored or read."""

    code = Code.STORAGE_FAILED


class StorageUnavailable(StorageError):
    """An image storage that does not answer as it should; it may later."""

    code = Code.STORAGE_UNAVAILABLE


class StorageRefused(StorageUnavailable):
    """An image storage that answers, and refuses; until its operator changes rights, names or credentials."""

    code = Code.STORAGE_REFUSED


class StorageFull(StorageUnavailable):
    """A data folder without space for uploads."""

    code = Code.STORAGE_FULL


class RenderError(FarmError):
    """An image that the pipeline could not render."""

    code = Code.RENDER_FAILED


class OutOfMemory(RenderError):
    """An image that did not fit into the memory of the device."""

    code = Code.OUT_OF_MEMORY


class SafetyError(FarmError):
    """An image that could not be checked, and so was not published."""

    code = Code.SAFETY_CHECK_FAILED
