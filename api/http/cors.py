"""CORS and security headers of every answer."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from api.http import fal_hosts
from api.http.fal_hosts import Application
from farm.loopback import is_loopback

Header = tuple[str, str]

#: Headers of every answer, unless it sets them itself.
_DEFAULTS: dict[str, Header] = {
    name.lower(): (name, value)
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )
}
#: Headers of a page, which may not be framed.
_PAGE_DEFAULTS: dict[str, Header] = _DEFAULTS | {
    "x-frame-options": ("X-Frame-Options", "DENY"),
    "content-security-policy": ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
}
_HSTS = ("Strict-Transport-Security", "max-age=31536000")
_VARY = ("Vary", "Origin")
#: Any origin, as a setting and as a header.
ANY = "*"
_METHODS = "GET, HEAD, POST, PUT, DELETE"
#: How long a browser may cache a preflight answer, in seconds; none caches it for longer.
_PREFLIGHT_SECONDS = 7200


class Cors:
    """WSGI middleware that adds the CORS and security headers to every answer.

    `origins` are those whose pages may call the API (`https://app.example`; ANY: all), never with credentials that the
    browser adds by itself: the page sends the key.
    """

    def __init__(self, application: Application, *, origins: Collection[str] = ()) -> None:
        self._application = application
        self._origins = frozenset(origins)
        #: With no list of origins, answers do not depend on the origin, and caches need not tell them apart.
        self._always = [_VARY] if self._origins and ANY not in self._origins else []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        added = self._always
        allowed = self._allowed(environ.get("HTTP_ORIGIN")) if self._origins else None
        if allowed:
            # Without credentials, the wildcard covers every header but Authorization, which no answer has.
            added = [*added, ("Access-Control-Allow-Origin", allowed), ("Access-Control-Expose-Headers", "*")]
            if environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
                start_response("204 No Content", [*added, *_defaults([]), *_preflight(environ)])
                return []
        if environ["wsgi.url_scheme"] == "https" and not is_loopback(
            fal_hosts.host_of(environ.get("HTTP_HOST", "")) or ""
        ):
            added = [*added, _HSTS]

        def start(status: str, headers: list[Header], *more: Any) -> Any:
            return start_response(status, [*headers, *_defaults(headers), *added], *more)

        return self._application(environ, start)

    def _allowed(self, origin: str | None) -> str | None:
        """Return the origin to allow, or None if pages of this one may not read the answer."""
        if ANY in self._origins:
            return ANY
        return origin if origin in self._origins else None


def _defaults(headers: list[Header]) -> list[Header]:
    given = {name.lower(): value for name, value in headers}
    defaults = _PAGE_DEFAULTS if given.get("content-type", "").startswith("text/html") else _DEFAULTS
    return [header for name, header in defaults.items() if name not in given]


def _preflight(environ: dict[str, Any]) -> list[Header]:
    """Return the preflight headers: any header may be sent, since the browser adds no credentials."""
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS")
    return [
        ("Access-Control-Allow-Methods", _METHODS),
        ("Access-Control-Max-Age", str(_PREFLIGHT_SECONDS)),
        *([("Access-Control-Allow-Headers", asked)] if asked else []),
    ]
