"""What browsers are told with every answer: what pages of other origins may do with it, and how careful to be."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import Any

from api.http import fal_hosts
from api.http.fal_hosts import Application
from farm.auth.api_keys import is_loopback

Header = tuple[str, str]

#: What every answer says, unless it says something else itself.
_USUAL: dict[str, Header] = {
    name.lower(): (name, value)
    for name, value in (
        ("X-Content-Type-Options", "nosniff"),
        ("Referrer-Policy", "no-referrer"),
        ("Cross-Origin-Resource-Policy", "same-origin"),
        ("Cache-Control", "no-store"),
    )
}
#: The same of a page: nobody may show it in a frame.
_OF_A_PAGE: dict[str, Header] = _USUAL | {
    "x-frame-options": ("X-Frame-Options", "DENY"),
    "content-security-policy": ("Content-Security-Policy", "default-src 'none'; frame-ancestors 'none'"),
}
_ONLY_TLS = ("Strict-Transport-Security", "max-age=31536000")
_BY_ORIGIN = ("Vary", "Origin")
#: Any origin, as a setting and as a header.
ANY = "*"
_METHODS = "GET, HEAD, POST, PUT, DELETE"
#: How long a browser may rely on what it was told before a call, in seconds; they keep it for no longer.
_PREFLIGHT_SECONDS = 7200


class Cors:
    """Adds to every answer of a WSGI application what browsers are to know of it.

    `origins` are those whose pages may call it (`https://app.example`; ANY: all). Never with credentials that a browser
    adds by itself: a key is sent by the page, or there is none.
    """

    def __init__(self, application: Application, *, origins: Collection[str] = ()) -> None:
        self._application = application
        self._origins = frozenset(origins)
        #: Without a list of origins every answer is the same for all, and caches need not tell them apart.
        self._always = [_BY_ORIGIN] if self._origins and ANY not in self._origins else []

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        added = self._always
        allowed = self._allowed(environ.get("HTTP_ORIGIN")) if self._origins else None
        if allowed:
            # Without credentials this stands for every header but Authorization, which no answer has.
            added = [*added, ("Access-Control-Allow-Origin", allowed), ("Access-Control-Expose-Headers", "*")]
            if environ["REQUEST_METHOD"] == "OPTIONS" and "HTTP_ACCESS_CONTROL_REQUEST_METHOD" in environ:
                start_response("204 No Content", [*added, *_usual([]), *_preflight(environ)])
                return []
        if environ["wsgi.url_scheme"] == "https" and not is_loopback(
            fal_hosts.host_of(environ.get("HTTP_HOST", "")) or ""
        ):
            added = [*added, _ONLY_TLS]

        def start(status: str, headers: list[Header], *more: Any) -> Any:
            return start_response(status, [*headers, *_usual(headers), *added], *more)

        return self._application(environ, start)

    def _allowed(self, origin: str | None) -> str | None:
        """What allows a page of this origin to read the answer; None: it may not."""
        if ANY in self._origins:
            return ANY
        return origin if origin in self._origins else None


def _usual(headers: list[Header]) -> list[Header]:
    said = {name.lower(): value for name, value in headers}
    usual = _OF_A_PAGE if said.get("content-type", "").startswith("text/html") else _USUAL
    return [header for name, header in usual.items() if name not in said]


def _preflight(environ: dict[str, Any]) -> list[Header]:
    """What a page may send: any header that it asks for, since none of them is added by the browser itself."""
    asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_HEADERS")
    return [
        ("Access-Control-Allow-Methods", _METHODS),
        ("Access-Control-Max-Age", str(_PREFLIGHT_SECONDS)),
        *([("Access-Control-Allow-Headers", asked)] if asked else []),
    ]
