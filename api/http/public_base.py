"""The base of the URLs in answers."""

from __future__ import annotations

from dataclasses import dataclass

import flask

from api.http import fal_hosts


@dataclass(frozen=True, slots=True)
class PublicBase:
    """FARM_PUBLIC_URL or the address of the API (`fixed`); or the address that the caller used, if `host_decides`."""

    fixed: str
    host_decides: bool = False

    def __call__(self) -> str:
        """Return the base for the current request, without a trailing slash.

        At one of fal's host names only fal's own paths are served, so it is not a base.
        """
        host = flask.request.environ.get("HTTP_HOST", "")
        if not self.host_decides or not host or fal_hosts.prefix_of(host):
            return self.fixed
        return f"{flask.request.scheme}://{host}"
