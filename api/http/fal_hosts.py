"""fal's host names: what each of fal's hosts serves at its root is served below a path prefix here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import flask

RUN, QUEUE, REST, CDN = "/fal/run", "/fal/queue", "/fal/rest", "/fal/cdn"

#: fal's own hosts → path prefixes.
FAL_HOSTS = {
    "fal.run": RUN,
    "queue.fal.run": QUEUE,
    "rest.fal.ai": REST,
    "rest.alpha.fal.ai": REST,
    "v3.fal.media": CDN,
}
#: First labels of other host names → path prefixes.
_PREFIXES_BY_LABEL = {"fal": RUN, "queue": QUEUE, "rest": REST, "cdn": CDN}

#: Beginnings of paths that have their prefix already.
_PREFIXES = tuple(f"{prefix}/" for prefix in (RUN, QUEUE, REST, CDN))

_LABEL = "[a-z0-9_-]{1,63}"
#: A name or an address, and a port: anything else could hide other parts of a URL.
_HOST = re.compile(
    rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?|\[(?P<address>[0-9a-f:.]{{2,45}})\])(?::[0-9]{{1,5}})?",
    re.ASCII | re.IGNORECASE,
)

#: Where the parts of a file are uploaded, and the upload is completed.
_PART = re.compile(r"/files/[^/]+/multipart/.")

#: The prefix of a request's host in its WSGI environment.
_PREFIX = "farm.fal_prefix"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class FalHosts:
    """WSGI middleware that puts the prefix of the host before the path of each request."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        prefix = prefix_of(environ.get("HTTP_HOST", ""))
        if prefix:
            environ[_PREFIX] = prefix
            put_below(prefix, environ)
        return self._application(environ, start_response)


def put_below(prefix: str, environ: dict[str, Any]) -> None:
    """Route a request to one of fal's hosts to what is served below `prefix`."""
    if not _is_same_on_all_hosts(environ):
        environ["PATH_INFO"] = prefix + environ["PATH_INFO"]


def address(prefix: str, base: str) -> str:
    """Return the URL of `prefix` for the current request's caller: by host name or by path, as the request came."""
    if flask.request.environ.get(_PREFIX) == prefix:
        return flask.request.host_url.rstrip("/")
    return base + prefix


@lru_cache(maxsize=64)
def prefix_of(host_and_port: str) -> str | None:
    """Return the path prefix of a `Host` header, or None if the host is not one of fal's."""
    host = host_of(host_and_port) or ""
    return FAL_HOSTS.get(host) or _PREFIXES_BY_LABEL.get(host.partition(".")[0])


@lru_cache(maxsize=64)
def host_of(host_and_port: str) -> str | None:
    """Return the name or address in a `Host` header, in lower case, or None if it is malformed."""
    match = _HOST.fullmatch(host_and_port)
    return (match["name"] or match["address"]).lower() if match else None


def name_of(url: str) -> str:
    """Return the host in `url`, in lower case, or an empty string if there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_same_on_all_hosts(environ: dict[str, Any]) -> bool:
    """Return True for paths that are the same under every host name, since URLs in answers begin with any of them.

    These are files, signing keys, the parts of uploads, and what is below a prefix already.
    """
    path: str = environ["PATH_INFO"]
    if path.startswith(_PREFIXES):
        return True
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return _PART.match(path) is not None
    return path.startswith("/files/") or path == "/.well-known/jwks.json"
