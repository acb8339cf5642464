"""URL converters for paths that contain slashes."""

from __future__ import annotations

from werkzeug.routing import Map, PathConverter


class PathExcept(PathConverter):
    """A path with none of these prefixes, which belong to other routes: there, a wrong method stays 405."""

    def __init__(self, url_map: Map, prefixes: str) -> None:
        """`prefixes` is a regular expression."""
        super().__init__(url_map)
        self.regex = f"(?!{prefixes}){PathConverter.regex}"
