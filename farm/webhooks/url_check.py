"""The check of URLs that callers give."""

from __future__ import annotations

from farm.domain.errors import ForbiddenAddress, InvalidRequest, Problem
from farm.ssrf_safe_http import SsrfSafeClient


def check(outbound: SsrfSafeClient, field: str, url: str) -> None:
    """Raise InvalidRequest, naming `field`, for a URL that the farm will not call."""
    try:
        outbound.check(url)
    except ForbiddenAddress as error:
        raise InvalidRequest([Problem(field, str(error), error.code, url)]) from error
