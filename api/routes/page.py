"""Routes of the page for people: playground at `/`, queue view at `/queue`, and their files. They need no API key.

What they show comes from `/farm/v1`, with the key that the user enters.
"""

from __future__ import annotations

from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

import flask

from api.http.assets import Asset, Assets, policy
from farm.dialects.fields import image_field
from farm.dialects.native import INPUTS
from farm.domain.catalogue import MODELS, SIZE_PRESETS, TERMS, DialectTerms, Model
from farm.settings import Settings

_FOLDER = files("api.page")


def routes(settings: Settings) -> flask.Blueprint:
    """Build the routes."""
    blueprint = flask.Blueprint("page", __name__, template_folder=str(_FOLDER / "templates"))
    assets = Assets((_FOLDER / "assets").iterdir())
    # With presigned URLs, images come from the store.
    own_policy = policy("data: blob:" + (" https: http:" if settings.files == "presigned" else ""))

    def page(name: str) -> flask.Response:
        html = flask.render_template(f"{name}.html", active=name)
        response = flask.Response(html, mimetype="text/html", headers={"Vary": "Accept"})
        response.headers["Content-Security-Policy"] = own_policy
        return response

    @blueprint.get("/")
    def playground() -> flask.Response:
        # Programs accept anything, browsers name HTML.
        if "text/html" not in flask.request.headers.get("Accept", ""):
            flask.abort(404)
        return page("playground")

    @blueprint.get("/queue")
    def queue() -> flask.Response:
        return page("queue")

    @cache
    def described() -> Asset:
        return Asset.of(flask.json.dumps(_catalogue()).encode(), "application/json")

    @blueprint.get("/page/models.json")
    def models() -> flask.Response:
        return described().answer()

    @blueprint.get("/page/<name>")
    def asset(name: str) -> flask.Response:
        return assets.answer(name)

    return blueprint


def _catalogue() -> dict[str, Any]:
    """Return what the form is made from: each model's ids, its field for input images and the schema of its request.

    `terms` has what each dialect takes, since the request is also shown as code for its clients.
    """
    terms = {dialect: _limits(terms) for dialect, terms in TERMS.items()}
    return {"models": [_described(model) for model in MODELS], "sizes": SIZE_PRESETS, "terms": terms}


def _limits(terms: DialectTerms) -> dict[str, int]:
    return {**asdict(terms.sides), "min_seed": terms.min_seed, "max_seed": terms.max_seed}


def _described(model: Model) -> dict[str, Any]:
    return {
        "name": model.name,
        "title": model.title,
        "ids_of": model.ids_of,
        "image_field": image_field(model.name),
        "schema": INPUTS[model.name].model_json_schema(),
    }
