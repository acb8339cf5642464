"""`/fal/proxy`: the one address to which fal's JavaScript client sends its calls when it is given a `proxyUrl`.

The URL that a call is meant for comes in a header. Nothing is fetched from there: a call that is meant for one of fal's
hosts is answered by this farm's own routes, as if it had come to them, and any other is refused. Fact from the client.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any, NoReturn
from urllib.parse import unquote_to_bytes

import flask
from werkzeug.exceptions import BadRequest

from api.context import ApiContext
from api.http import fal_hosts

PATH = "/fal/proxy"
_HEADER = "X-Fal-Target-Url"
_WSGI_HEADER = "HTTP_X_FAL_TARGET_URL"
#: Nothing but a host, a path and a query: no user, no port, no fragment, behind which another host could hide.
_TARGET = re.compile(r"https?://(?P<host>[a-z0-9.-]+)(?P<path>/[^?#\\\s]*)(?:\?(?P<query>[^#\s]*))?", re.IGNORECASE)


class FalProxy:
    """Sends what came to the proxy's address to the routes that it is meant for. Wraps a WSGI application."""

    def __init__(self, application: fal_hosts.Application) -> None:
        self._application = application

    def __call__(self, environ: dict[str, Any], start_response: Any) -> Iterable[bytes]:
        if environ["PATH_INFO"] in (PATH, f"{PATH}/") and not environ["QUERY_STRING"]:
            _redirect(environ)
        return self._application(environ, start_response)


def routes(context: ApiContext) -> flask.Blueprint:
    blueprint = flask.Blueprint("fal_proxy", __name__)

    @blueprint.route(f"{PATH}/", methods=["GET", "POST", "PUT", "DELETE"])
    @blueprint.route(PATH, methods=["GET", "POST", "PUT", "DELETE"])
    def refuse() -> NoReturn:
        """Whatever arrives here had no good target."""
        context.authenticator.caller()
        sent = flask.request.headers.get(_HEADER, "nothing")[:200]
        allowed = f"a URL of {', '.join(fal_hosts.FAL_HOSTS)}, with path and query, and none of them in this address"
        raise BadRequest(f"The header {_HEADER} must name a URL of fal; allowed: {allowed}; sent: {sent}")

    return blueprint


def _redirect(environ: dict[str, Any]) -> None:
    target = _TARGET.fullmatch(environ.get(_WSGI_HEADER, ""))
    prefix = fal_hosts.FAL_HOSTS.get(target["host"].lower()) if target else None
    if target and prefix:
        # As WSGI has it: the path decoded, byte by byte, the query as it came.
        environ["PATH_INFO"] = unquote_to_bytes(target["path"].encode("latin-1")).decode("latin-1")
        environ["QUERY_STRING"] = target["query"] or ""
        fal_hosts.put_below(prefix, environ)
