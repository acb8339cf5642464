"""The check of URLs that callers give."""

from __future__ import annotations

from farm.domain.errors import ForbiddenAddress, InvalidRequest, Problem
from farm.ssrf_safe_http import SsrfSafeClient

#: Longest webhook URL, in characters: each waiting job keeps its own.
MAX_WEBHOOK_URL_LENGTH = 2048


def check(outbound: SsrfSafeClient, field: str, url: str) -> None:
    """Raise InvalidRequest, naming `field`, for a URL that the farm will not call."""
    if len(url) > MAX_WEBHOOK_URL_LENGTH:
        message = f"the URL is too long; allowed: up to {MAX_WEBHOOK_URL_LENGTH} characters"
        raise InvalidRequest([Problem(field, message, ForbiddenAddress.code, url[:MAX_WEBHOOK_URL_LENGTH])])
    try:
        outbound.check(url)
    except ForbiddenAddress as error:
        raise InvalidRequest([Problem(field, str(error), error.code, url)]) from error
