"""Host names that stand for one of fal's own hosts: what such a host serves at its root is served below a path here."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any
from urllib.parse import urlsplit

import flask

RUN, QUEUE, REST, CDN = "/fal/run", "/fal/queue", "/fal/rest", "/fal/cdn"

#: fal's own hosts → the paths that they stand for.
FALS = {"fal.run": RUN, "queue.fal.run": QUEUE, "rest.fal.ai": REST, "rest.alpha.fal.ai": REST, "v3.fal.media": CDN}
#: First labels of other names that stand for them.
_LABELS = {"fal": RUN, "queue": QUEUE, "rest": REST, "cdn": CDN}

_LABEL = "[a-z0-9_-]{1,63}"
#: A name or an address, and a port: behind anything else other parts of a URL could hide.
_HOST = re.compile(
    rf"(?:(?P<name>{_LABEL}(?:\.{_LABEL})*)\.?|\[(?P<address>[0-9a-f:.]{{2,45}})\])(?::[0-9]{{1,5}})?",
    re.ASCII | re.IGNORECASE,
)

#: Where a part of a file is sent, and the word that there are no more.
_PART = re.compile(r"/files/[^/]+/multipart/.")

#: Where the path that a request's host stands for is kept in its WSGI environment.
_STANDS_FOR = "farm.stands_for"

Application = Callable[[dict[str, Any], Any], Iterable[bytes]]


class FalHosts:
    """Puts the path that the host stands for before the path of each request. Wraps a WSGI application."""

    def __init__(self, application: Application) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        prefix = prefix_of(environ.get("HTTP_HOST", ""))
        if prefix:
            environ[_STANDS_FOR] = prefix
            put_below(prefix, environ)
        return self._application(environ, start_response)


def put_below(prefix: str, environ: dict[str, Any]) -> None:
    """Have a request to one of fal's hosts answered by what is served below `prefix`."""
    if not _is_the_same_everywhere(environ):
        environ["PATH_INFO"] = prefix + environ["PATH_INFO"]


def address(prefix: str, base: str) -> str:
    """How the current request's caller reaches what is served below `prefix`: as it came, by host name or by path."""
    if flask.request.environ.get(_STANDS_FOR) == prefix:
        return flask.request.host_url.rstrip("/")
    return base + prefix


@lru_cache(maxsize=64)
def prefix_of(host_and_port: str) -> str | None:
    """The path that a `Host` stands for; None for a name that is none of fal's."""
    host = host_of(host_and_port) or ""
    return FALS.get(host) or _LABELS.get(host.partition(".")[0])


@lru_cache(maxsize=64)
def host_of(host_and_port: str) -> str | None:
    """The name or address in a `Host`, in small letters; None where it is no host at all."""
    match = _HOST.fullmatch(host_and_port)
    return (match["name"] or match["address"]).lower() if match else None


def name_of(url: str) -> str:
    """The host in `url`, in small letters; empty where there is none."""
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""


def _is_the_same_everywhere(environ: dict[str, Any]) -> bool:
    """Images are read, and the keys of signatures, under every name; parts come to the files that they are to be."""
    path: str = environ["PATH_INFO"]
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return _PART.match(path) is not None
    return path.startswith("/files/") or path == "/.well-known/jwks.json"
