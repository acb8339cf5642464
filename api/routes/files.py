"""`/files`: pictures from storage. No key is asked for, because nobody can guess the names; any is ignored."""

from __future__ import annotations

import flask

from farm.errors import NotFound
from farm.storage.local import LocalStorage


def routes(storage: LocalStorage) -> flask.Blueprint:
    blueprint = flask.Blueprint("files", __name__)

    @blueprint.get("/files/<key>")
    def file(key: str) -> flask.Response:
        path = storage.find(key)
        if path is None:
            raise NotFound(f"No file is here under the name '{key}'.")
        response = flask.send_file(path, conditional=True, max_age=86400)
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response

    return blueprint
