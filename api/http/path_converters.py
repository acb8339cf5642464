"""Parts of paths that hold slashes."""

from __future__ import annotations

from werkzeug.routing import Map, PathConverter


class PathExcept(PathConverter):
    """A path that does not begin as others do: theirs are these beginnings, for a wrong method is no unknown path."""

    def __init__(self, url_map: Map, beginnings: str) -> None:
        """`beginnings` is a regular expression."""
        super().__init__(url_map)
        self.regex = f"(?!{beginnings}){PathConverter.regex}"
