"""Authentication: by API key or, while the API listens on localhost only, anybody on this machine."""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from functools import lru_cache
from typing import Any

import flask
from werkzeug.exceptions import BadRequest

from api.admission.rate_limit import RateLimiter, note
from api.connections.client_connection import ClientConnection
from api.http import fal_hosts
from api.http.cors import ANY
from api.http.request_id import request_id
from farm import clock
from farm.auth.api_keys import LOCAL, ApiKeyStore, Caller
from farm.domain import trace_context
from farm.domain.errors import Forbidden, StoreUnavailable, Unauthorized
from farm.domain.job import Origin
from farm.loopback import is_loopback

_SCHEMES = ("key", "bearer")
#: Seconds after which a stream checks its key again.
_KEY_RECHECK_SECONDS = 15.0


class Authenticator:
    """Identifies callers. With `callers` None keys are off: only programs of this machine may call.

    So may pages of `origins`, but for a wildcard: a page that anybody may have written is refused.
    """

    def __init__(
        self,
        callers: ApiKeyStore | None,
        limiter: RateLimiter,
        *,
        base: Callable[[], str],
        origins: Collection[str] = (),
    ) -> None:
        self._callers = callers
        self._limiter = limiter
        self._base = base
        self._origins = frozenset(origins) - {ANY}

    def guard(self) -> None:
        """Refuse a malformed Host header and, while keys are off, calls that pages or proxies may have forwarded."""
        environ = flask.request.environ
        _refuse_malformed_host(environ.get("HTTP_HOST"))
        if self._callers is None:
            _refuse_foreign_calls(environ, self._origins)

    def caller(self) -> Caller:
        """Return the caller of the current request. Raises Unauthorized."""
        caller = self._callers.identify(_shown_key()) if self._callers else LOCAL
        if caller is None:
            raise Unauthorized
        flask.g.caller = caller
        return caller

    def refuse_all_but_admins(self, what: str) -> None:
        """Raise Unauthorized or Forbidden unless an admin key came with the request. `what` is the refused action."""
        if not self.caller().is_admin:
            raise Forbidden(f"Only an admin key may {what}.")

    def submitter(self) -> Caller:
        """Return the caller of the current submit. Raises Unauthorized, or LimitReached while a refusal stands."""
        caller = self.caller()
        self._limiter.refuse_again(caller, flask.request.environ.get("HTTP_IDEMPOTENCY_KEY", ""))
        return replace(
            caller,
            report_quotas=note,
            base=self._base(),
            has_disconnected=_has_disconnected,
            origin=Origin(request_id(), caller.key_id, _trace_context()),
        )

    def token(self, *, until: int) -> str:
        """Return a token that `uploader` accepts for the current request's key; `until` in seconds since the epoch."""
        if self._callers is None:
            return LOCAL.id
        token = self._callers.token(_shown_key(), until=until)
        if token is None:
            raise Unauthorized("Missing or invalid API key; send 'Authorization: Key <key>'.")
        return token

    def uploader(self) -> Caller:
        """Return the caller of the current request, by its token or key. Raises Unauthorized."""
        by_token = self._callers.identify_token(_shown_key()) if self._callers else LOCAL
        return by_token or self.caller()

    def key_still_valid(self) -> Callable[[], bool]:
        """Return a function that tells, while the current request is being answered, whether its key is still valid."""
        if self._callers is None:
            return lambda: True
        return _KeyRecheck(self._callers, _shown_key()).is_valid


class _KeyRecheck:
    """A check, at intervals, that a key is still valid. While the job store does not answer, it is."""

    def __init__(self, callers: ApiKeyStore, key: str) -> None:
        self._callers = callers
        self._key = key
        self._asked_at = clock.monotonic()

    def is_valid(self) -> bool:
        if clock.monotonic() - self._asked_at < _KEY_RECHECK_SECONDS:
            return True
        self._asked_at = clock.monotonic()
        try:
            return self._callers.identify(self._key) is not None
        except StoreUnavailable:
            return True


def _trace_context() -> str:
    """Return the trace context that came with the current call; empty if none did, or it is not valid."""
    return trace_context.cleaned(flask.request.environ.get("HTTP_TRACEPARENT", ""))


def _has_disconnected() -> bool:
    return ClientConnection.of(flask.request.environ).has_disconnected()


def _shown_key() -> str:
    return shown_key(flask.request.headers.get("Authorization", ""))


def shown_key(header: str) -> str:
    """Return the key in an Authorization header: after `Key` or `Bearer`, or the whole header."""
    scheme, _, rest = header.partition(" ")
    return rest.strip() if scheme.lower() in _SCHEMES else header.strip()


def _refuse_malformed_host(host: str | None) -> None:
    if host is not None and fal_hosts.host_of(host) is None:
        raise BadRequest(
            f"The Host header '{host[:100]}' is malformed; send a name or an address, and a port after a colon."
        )


#: How the names of headers begin that proxies, tunnels and CDNs add, as WSGI spells them.
_FORWARDING = (
    *("HTTP_FORWARDED", "HTTP_VIA", "HTTP_X_FORWARDED_", "HTTP_X_ORIGINAL_", "HTTP_X_ENVOY_", "HTTP_X_ARR_"),
    *("HTTP_X_REAL_IP", "HTTP_X_CLIENT_IP", "HTTP_X_CLUSTER_CLIENT_IP", "HTTP_TRUE_CLIENT_IP"),
    *("HTTP_CF_", "HTTP_CDN_LOOP", "HTTP_FASTLY_", "HTTP_FLY_", "HTTP_TAILSCALE_"),
)


def _refuse_foreign_calls(environ: dict[str, Any], origins: Collection[str]) -> None:
    for name in environ:
        if name.startswith("HTTP_") and name.startswith(_FORWARDING):  # the first spares half of the time
            header = name.removeprefix("HTTP_").replace("_", "-").title()
            raise Forbidden(f"The header {header} was added by a proxy; set FARM_AUTH=keys to run the farm behind one.")
    if not _is_ours(environ.get("HTTP_HOST", "")):
        raise Forbidden(f"The Host '{flask.request.host}' is not localhost; set FARM_AUTH=keys to serve other hosts.")
    origin = environ.get("HTTP_ORIGIN")
    if origin is None:
        _refuse_foreign_pages(environ)
    elif not (origin in origins or is_loopback(fal_hosts.name_of(origin))):
        raise Forbidden(f"The Origin '{origin[:100]}' is not localhost; add it to FARM_CORS, or set FARM_AUTH=keys.")


#: What a link on any page may open, as nothing in it belongs to a caller.
_LINKED_PATHS = ("/", "/queue", "/docs")


def _refuse_foreign_pages(environ: dict[str, Any]) -> None:
    """Refuse a request that a browser made for a page of another site: with GET, browsers send no Origin.

    Any page may show a file, whose name it must know, and link to the documentation.
    """
    site = environ.get("HTTP_SEC_FETCH_SITE", "none")
    if site in ("none", "same-origin") or (site == "same-site" and _is_loopback_host(environ)):
        return
    path, is_read = environ["PATH_INFO"], environ["REQUEST_METHOD"] in ("GET", "HEAD")
    if is_read and (path.startswith("/files/") or (_opens_page(environ) and path in _LINKED_PATHS)):
        return
    raise Forbidden(
        f"A web page of another site sent this (Sec-Fetch-Site: {site[:20]}); use a page of an origin in FARM_CORS, "
        "with CORS requests, or set FARM_AUTH=keys."
    )


def _opens_page(environ: dict[str, Any]) -> bool:
    """Return True if the browser's user follows a link, rather than a page that fetches or frames something."""
    return environ.get("HTTP_SEC_FETCH_MODE") == "navigate" and environ.get("HTTP_SEC_FETCH_DEST") == "document"


def _is_loopback_host(environ: dict[str, Any]) -> bool:
    return is_loopback(fal_hosts.host_of(environ.get("HTTP_HOST", "")) or "")


@lru_cache(maxsize=64)
def _is_ours(host_and_port: str) -> bool:
    return is_loopback(fal_hosts.host_of(host_and_port) or "") or fal_hosts.prefix_of(host_and_port) is not None
