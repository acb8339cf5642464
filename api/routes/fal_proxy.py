"""Route of `/fal/proxy`, to which fal's JavaScript client sends all calls when it has a `proxyUrl`.

The target URL is in a header. Nothing is fetched from there: a call for one of fal's hosts is served by this farm's own
routes, and any other call is rejected.
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
#: Host, path and query only: a user, a port or a fragment could hide another host.
_TARGET = re.compile(r"https?://(?P<host>[a-z0-9.-]+)(?P<path>/[^?#\\\s]*)(?:\?(?P<query>[^#\s]*))?", re.IGNORECASE)


class FalProxy:
    """WSGI middleware that passes calls to the proxy URL on to the routes that they are for."""

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
    def reject() -> NoReturn:
        """Reject a call without a valid target URL."""
        context.authenticator.caller()
        sent = flask.request.headers.get(_HEADER, "nothing")[:200]
        allowed = f"a URL of {', '.join(fal_hosts.FAL_HOSTS)}, with path and query, and none of them in this address"
        raise BadRequest(f"The header {_HEADER} must name a URL of fal; allowed: {allowed}; sent: {sent}")

    return blueprint


def _redirect(environ: dict[str, Any]) -> None:
    target = _TARGET.fullmatch(environ.get(_WSGI_HEADER, ""))
    prefix = fal_hosts.FAL_HOSTS.get(target["host"].lower()) if target else None
    if target and prefix:
        # As in WSGI: the path is decoded byte by byte, the query string is not.
        environ["PATH_INFO"] = unquote_to_bytes(target["path"].encode("latin-1")).decode("latin-1")
        environ["QUERY_STRING"] = target["query"] or ""
        fal_hosts.put_below(prefix, environ)
