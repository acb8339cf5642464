"""The base of the URLs in answers."""

from __future__ import annotations

from dataclasses import dataclass

import flask


@dataclass(frozen=True, slots=True)
class PublicBase:
    """FARM_PUBLIC_URL or the address of the API (`fixed`); or the address that the caller used, if `host_decides`."""

    fixed: str
    host_decides: bool = False

    def __call__(self) -> str:
        """Return the base for the current request, without a trailing slash.

        One of fal's host names is a base, too: what URLs of answers lead to is served there at the same path.
        """
        host = flask.request.environ.get("HTTP_HOST", "")
        if not self.host_decides or not host:
            return self.fixed
        return f"{flask.request.scheme}://{host}"
