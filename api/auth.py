"""Who is calling: an API key, or, while the API listens on loopback only, anybody on this machine."""

from __future__ import annotations

import ipaddress
from functools import lru_cache
from urllib.parse import urlsplit

import flask

from farm.callers import LOCAL, Caller, Callers
from farm.errors import Forbidden, Unauthorized

#: Hosts of fal's own, under which the farm answers as fal does, and the first labels that stand for them.
FAL_HOSTS = frozenset({"fal.run", "queue.fal.run", "rest.fal.ai", "rest.alpha.fal.ai", "v3.fal.media"})
FAL_LABELS = frozenset({"fal", "queue", "rest", "cdn"})

_SCHEMES = ("key", "bearer")


class Doorman:
    """Tells who calls. With `callers` None keys are off, and only this machine's own programs get in."""

    def __init__(self, callers: Callers | None) -> None:
        self._callers = callers

    def guard(self) -> None:
        """While keys are off: refuse what a web page or a proxy may have sent on behalf of somebody else."""
        if self._callers is None:
            _refuse_strangers(flask.request)

    def caller(self) -> Caller:
        """Who sent the current request. Raises Unauthorized."""
        if self._callers is None:
            return LOCAL
        key = shown_key(flask.request.headers.get("Authorization", ""))
        caller = self._callers.identify(key)
        if caller is None:
            raise Unauthorized("No valid API key came with the request; send 'Authorization: Bearer <key>'.")
        return caller


def shown_key(header: str) -> str:
    """The key in an Authorization header: after `Key` or `Bearer`, or the bare header."""
    scheme, _, rest = header.partition(" ")
    return rest.strip() if scheme.lower() in _SCHEMES else header.strip()


def is_loopback(host: str) -> bool:
    """Whether this host name or address is this machine's own."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


#: Beginnings of headers' names, as WSGI spells them.
_OF_A_PROXY = ("HTTP_FORWARDED", "HTTP_X_REAL_IP", "HTTP_X_FORWARDED_")


def _refuse_strangers(request: flask.Request) -> None:
    environ = request.environ
    for name in environ:
        if name.startswith(_OF_A_PROXY):
            header = name.removeprefix("HTTP_").replace("_", "-").title()
            raise Forbidden(f"The header {header} says that a proxy is in front; set FARM_AUTH=keys to be behind one.")
    if not _is_ours(environ.get("HTTP_HOST", "")):
        raise Forbidden(f"The Host '{request.host}' is not this machine's; set FARM_AUTH=keys to answer under it.")
    origin = environ.get("HTTP_ORIGIN")
    if origin is not None and not is_loopback(_host_of(origin)):
        raise Forbidden(f"The Origin '{origin}' is not this machine's; set FARM_AUTH=keys to allow web pages.")


@lru_cache(maxsize=64)
def _is_ours(host_and_port: str) -> bool:
    if set(host_and_port) & set("@/?#\\"):  # no part of a name; other parts of a URL could hide behind one
        return False
    host = _host_of(f"//{host_and_port}")
    return is_loopback(host) or host in FAL_HOSTS or host.split(".")[0] in FAL_LABELS


def _host_of(url: str) -> str:
    try:
        return (urlsplit(url).hostname or "").rstrip(".")
    except ValueError:
        return ""
