"""The page for people: what the API sends of it."""

from __future__ import annotations

import json
from importlib.resources import files

import pytest
from flask.testing import FlaskClient

from farm.domain.catalogue import MODELS
from miniature.wording import vocabulary

BROWSER = {"Accept": "text/html,application/xhtml+xml,*/*;q=0.8"}


@pytest.mark.parametrize("path", ["/", "/queue"])
def test_a_browser_gets_a_page_without_a_key_that_runs_its_own_scripts_only(keyed: FlaskClient, path: str) -> None:
    response = keyed.get(path, headers=BROWSER)

    policy = response.headers["Content-Security-Policy"].split("; ")
    assert (response.status_code, response.mimetype) == (200, "text/html")
    assert {"default-src 'none'", "script-src 'self'", "frame-ancestors 'none'"} <= set(policy)
    assert "<script>" not in response.text
    assert " style=" not in response.text


@pytest.mark.parametrize("file", sorted(file.name for file in (files("api.page") / "assets").iterdir()))
def test_its_files_are_sent_once_for_each_version(keyed: FlaskClient, file: str) -> None:
    first = keyed.get(f"/page/{file}")
    again = keyed.get(f"/page/{file}", headers={"If-None-Match": first.headers["ETag"]})

    assert (first.status_code, again.status_code) == (200, 304)
    kinds = {"js": "text/javascript", "css": "text/css", "svg": "image/svg+xml", "json": "application/json"}
    assert first.mimetype == kinds[file.rpartition(".")[2]]


@pytest.mark.parametrize("name", ["base.html", "..%2f__init__.py", "__init__.py", "x.js"])
def test_nothing_else_is_sent(keyed: FlaskClient, name: str) -> None:
    assert keyed.get(f"/page/{name}").status_code == 404


def test_every_field_of_every_model_has_a_help_text(keyed: FlaskClient) -> None:
    models = keyed.get("/page/models.json").json["models"]  # type: ignore[index]

    assert [model["name"] for model in models] == [model.name for model in MODELS]
    fields = [(name, field) for model in models for name, field in model["schema"]["properties"].items()]
    assert [name for name, field in fields if name != "model" and not field.get("description")] == []


def test_the_words_of_the_miniature_are_those_that_it_was_trained_on() -> None:
    shown = json.loads((files("api.page") / "assets" / "miniature.json").read_text())

    assert shown["words"] == vocabulary()
    assert {word for example in shown["examples"] for word in example.replace(",", "").split()} <= set(shown["words"])
