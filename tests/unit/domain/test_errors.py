"""The farm's errors: each with a code of its own, the status that follows from it, and a message for people."""

from __future__ import annotations

import pytest

from farm.domain import errors
from farm.domain.error_codes import FAILURES
from farm.domain.errors import (
    FarmError,
    InvalidRequest,
    LimitReached,
    Problem,
    QueueFull,
    StoreUnavailable,
    with_detail,
)

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarmError)]
CALLABLE = [kind for kind in KINDS if kind is not InvalidRequest]

#: The HTTP status of a call that is refused for each.
STATUSES: dict[type[FarmError], int] = {
    errors.FarmError: 500,
    errors.ConfigurationError: 500,
    errors.NoDevice: 500,
    errors.InvalidRequest: 422,
    errors.ClientGone: 400,
    errors.UnknownModel: 404,
    errors.ModelNotServed: 400,
    errors.NotReady: 503,
    errors.NotFound: 404,
    errors.Unauthorized: 401,
    errors.Forbidden: 403,
    errors.UploadComplete: 403,
    errors.LimitReached: 429,
    errors.QueueFull: 429,
    errors.MemoryShareUsedUp: 429,
    errors.RateLimited: 429,
    errors.ImagesUsedUp: 429,
    errors.QueueTooLong: 429,
    errors.UploadQuotaExceeded: 429,
    errors.TooManyUploads: 429,
    errors.ConcurrencyLimitReached: 429,
    errors.StoreFull: 429,
    errors.StoreUnavailable: 503,
    errors.StoreDiskFull: 503,
    errors.IdempotencyConflict: 422,
    errors.NotFinished: 409,
    errors.BulkEnded: 409,
    errors.NotRetryable: 409,
    errors.ForbiddenAddress: 422,
    errors.Unreachable: 502,
    errors.TooLarge: 502,
    errors.StorageError: 500,
    errors.StorageUnavailable: 503,
    errors.StorageRefused: 503,
    errors.StorageFull: 503,
    errors.EnhancerUnavailable: 503,
    errors.RenderError: 500,
    errors.OutOfMemory: 500,
    errors.SafetyError: 500,
}


def test_no_two_kinds_share_a_code() -> None:
    own = [kind for kind in KINDS if "code" in vars(kind)]

    assert len({kind.code for kind in own}) == len(own) > 30


def test_every_kind_has_its_status() -> None:
    assert {kind: _new(kind).call_failure.status for kind in KINDS} == STATUSES


def _new(kind: type[FarmError]) -> FarmError:
    return InvalidRequest([]) if kind is InvalidRequest else kind()


@pytest.mark.parametrize("kind", CALLABLE, ids=lambda kind: kind.__name__)
def test_without_a_message_that_of_the_code_is_shown(kind: type[FarmError]) -> None:
    assert str(kind()) == FAILURES[kind.code].message
    assert str(kind("no disk")) == "no disk"


@pytest.mark.parametrize(
    "kind", [kind for kind in CALLABLE if not issubclass(kind, LimitReached)], ids=lambda kind: kind.__name__
)
def test_the_detail_for_operators_is_not_in_the_message(kind: type[FarmError]) -> None:
    error = kind(detail="connecting to 10.0.0.7:6379")

    assert "10.0.0.7" not in str(error)
    assert with_detail(error) == f"{error} (connecting to 10.0.0.7:6379)"


def test_without_a_detail_operators_read_the_message() -> None:
    assert with_detail(StoreUnavailable()) == str(StoreUnavailable())
    assert with_detail(ValueError("no number")) == "no number"


@pytest.mark.parametrize("code", [None, "teapot"], ids=["no code", "an unlisted code"])
@pytest.mark.parametrize("parent", CALLABLE, ids=lambda kind: kind.__name__)
def test_a_new_subclass_is_answered_like_its_parent(parent: type[FarmError], code: str | None) -> None:
    kind = type("Teapot", (parent,), {"code": code} if code else {})

    assert kind().call_failure == parent().call_failure
    assert kind().retry_after == parent().retry_after
    assert str(kind()) == str(parent())


def test_an_invalid_request_tells_every_problem() -> None:
    error = InvalidRequest([Problem("seed", "too small", "k"), Problem("", "no JSON", "k")])

    assert str(error) == "seed: too small; no JSON"


def test_a_limit_says_when_to_try_again_and_counts_down() -> None:
    error = QueueFull("full", seconds=9.5, stands_seconds=4.0)

    later = error.later(3.0)

    assert (error.retry_after, later.retry_after, later.stands_seconds) == (10, 7, 1.0)
    assert (type(later), later.code, str(later)) == (QueueFull, "queue_full", "full")
