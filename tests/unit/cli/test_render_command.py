"""`farm render`: which model a name means, how images are sent, and errors that name the options."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any, cast

import pytest
import typer

from farm.cli.client import CallFailed, Client
from farm.cli.main import app
from farm.cli.render_options import OPTIONS, in_options, naming_options
from farm.cli.request_fields import ModelNames, UnusableFile, image_fields, image_urls
from farm.client.safety_check import check_fields
from farm.domain.catalogue import MODELS
from tests.images import data_uri, sample_image

COMMAND = typer.main.get_command(app).commands["render"]  # type: ignore[attr-defined]
URLS = ["https://a.example/fox.png", "http://127.0.0.1:8000/files/x.png", "HTTPS://a.example", "data:,x"]


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("srpo", ["srpo", "srpo-image-to-image", "srpo-image-to-image", "srpo-image-to-image"]),
        ("kontext", ["kontext-text-to-image", "kontext", "kontext-multi", "kontext-multi"]),
        ("kontext-multi", ["kontext-multi"] * 4),
        ("fal-ai/flux/srpo", ["srpo"] * 4),
        ("kontext-id", ["kontext-text-to-image", "kontext", "kontext-multi", "kontext-multi"]),
        ("sdxl", ["sdxl"] * 4),
    ],
)
def test_a_short_name_means_the_model_for_so_many_images(name: str, models: list[str]) -> None:
    names = ModelNames(cast(Client, Models(srpo="off", kontext="bundled")))

    assert [names.model_for(name, count) for count in range(4)] == models


def test_short_model_names_lead_to_models_of_the_catalogue() -> None:
    names = ModelNames(cast(Client, Models()))
    meant = {names.model_for(name, count) for name in ("srpo", "kontext") for count in range(3)}

    assert meant == {model.name for model in MODELS}


def test_images_are_sent_under_the_name_that_the_model_has_for_them() -> None:
    assert image_fields([], several=False) == {}
    assert image_fields(URLS[:1], several=False) == {"image_url": URLS[0]}
    assert image_fields(URLS[:1], several=True) == {"image_urls": URLS[:1]}
    assert image_fields(URLS[:2], several=False) == {"image_urls": URLS[:2]}


def test_urls_are_sent_as_they_are() -> None:
    assert image_urls(URLS) == URLS


def test_files_are_sent_in_their_order(tmp_path: Path) -> None:
    fox, owl = tmp_path / "fox.png", tmp_path / "owl"
    fox.write_bytes(sample_image())
    owl.write_bytes(b"owl")

    sent = image_urls([str(owl), URLS[0], str(fox), str(fox)])

    owl_uri = f"data:application/octet-stream;base64,{base64.b64encode(b'owl').decode()}"
    assert sent == [owl_uri, URLS[0], data_uri(sample_image()), data_uri(sample_image())]


@pytest.mark.parametrize("name", ["nothing.png", ".", "ftp://a.example/fox.png"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnusableFile, match=r"^--image: ") as caught:
        image_urls([name])
    assert str(Path(name)) in str(caught.value)


def test_files_are_refused_that_are_too_large_together(tmp_path: Path) -> None:
    fox = tmp_path / "fox.png"
    fox.write_bytes(b"x" * 50)

    assert len(image_urls([str(fox)] * 2, max_bytes=100)) == 2
    with pytest.raises(UnusableFile, match=r"^--image: .*allowed: 100 bytes"):
        image_urls([str(fox)] * 3, max_bytes=100)


def test_an_error_names_the_options_that_were_typed() -> None:
    refused = CallFailed(
        "image_size.width: …",
        [
            {"field": "image_size.width", "message": "too small; sent: 10", "type": "greater_than_equal"},
            {"field": "num_inference_steps", "message": "too many; sent: 99", "type": "less_than_equal"},
            {"field": "strength", "message": "there is no such field", "type": "extra_forbidden"},
        ],
    )

    assert str(in_options(refused)) == (
        "--size (width): too small; sent: 10; --steps: too many; sent: 99; --strength: this model has no such option"
    )


def test_the_error_of_a_request_names_the_options_that_were_typed() -> None:
    unknown = "unknown field; allowed: prompt, seed; sent: 0.5"
    error = f"image_size.width: too small; sent: 'seed: 1'; seed: too large; strength: {unknown}; mask: {unknown}"

    assert naming_options(error, {"image_size", "strength"}) == (
        "--size.width: too small; sent: 'seed: 1'; seed: too large; "
        f"--strength: this model has no such option; sent: 0.5; mask: {unknown}"
    )
    assert naming_options(error, ()) == error


def test_an_error_about_no_field_stays_as_it_is() -> None:
    refused = CallFailed("No model has the id 'sdxl'.")

    assert in_options(refused) is refused


def test_every_option_that_an_error_can_name_is_there() -> None:
    declared = {name for parameter in COMMAND.params for name in (*parameter.opts, *parameter.secondary_opts)}

    assert set(OPTIONS.values()) - {"PROMPT"} <= declared
    assert declared - set(OPTIONS.values()) == {
        *("prompt", "--no-safety-checker", "--cancel-on-interrupt", "--out", "--json", "--show"),
        *("--from", "--seeds", "--sheet"),
    }


class Models:
    """A farm that lists these models."""

    def __init__(self, **safety: str) -> None:
        self._safety = safety

    def get(self, path: str) -> dict[str, Any]:
        assert path == "/models"
        return {
            "models": [
                {"name": name, "ids": [name, f"{name}-id"], "served": True, "safety": mode}
                for name, mode in self._safety.items()
            ]
        }


@pytest.mark.parametrize(
    ("model", "is_checked"), [("srpo", False), ("srpo-id", False), ("kontext", True), ("unknown", True)]
)
def test_a_farm_without_a_checker_is_not_asked_for_a_check(model: str, is_checked: bool) -> None:
    sent = {} if is_checked else {"enable_safety_checker": False}

    assert check_fields(cast(Client, Models(srpo="off", kontext="bundled")), model) == sent
