"""`farm render`: which model is meant, and how pictures are sent."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from farm.cli import render
from farm.cli.render import UnusableFile, model_for, picture_urls, pictures
from farm.domain.catalogue import MODELS
from farm.images.decode import MAX_BYTES
from tests.images import a_picture, data_uri

URLS = ["https://a.example/fox.png", "http://127.0.0.1:8000/files/x.png", "HTTPS://a.example", "data:,x"]


@pytest.mark.parametrize(
    ("name", "models"),
    [
        ("srpo", ["srpo", "srpo-image-to-image", "srpo-image-to-image", "srpo-image-to-image"]),
        ("kontext", ["kontext-text-to-image", "kontext", "kontext-multi", "kontext-multi"]),
        ("kontext-multi", ["kontext-multi"] * 4),
        ("fal-ai/flux/srpo", ["fal-ai/flux/srpo"] * 4),
        ("sdxl", ["sdxl"] * 4),
    ],
)
def test_a_short_name_means_the_model_for_so_many_pictures(name: str, models: list[str]) -> None:
    assert [model_for(name, count) for count in range(4)] == models


def test_what_short_names_mean_is_in_the_catalogue() -> None:
    meant = {model_for(name, count) for name in ("srpo", "kontext") for count in range(3)}

    assert meant == {model.name for model in MODELS}


def test_pictures_are_sent_under_the_name_that_the_model_has_for_them() -> None:
    assert pictures([], several=False) == {}
    assert pictures(URLS[:1], several=False) == {"image_url": URLS[0]}
    assert pictures(URLS[:1], several=True) == {"image_urls": URLS[:1]}
    assert pictures(URLS[:2], several=False) == {"image_urls": URLS[:2]}


def test_urls_are_sent_as_they_are() -> None:
    assert picture_urls(URLS) == URLS


def test_files_are_sent_in_their_order(tmp_path: Path) -> None:
    fox, owl = tmp_path / "fox.png", tmp_path / "owl"
    fox.write_bytes(a_picture())
    owl.write_bytes(b"owl")

    sent = picture_urls([str(owl), URLS[0], str(fox), str(fox)])

    owl_uri = f"data:application/octet-stream;base64,{base64.b64encode(b'owl').decode()}"
    assert sent == [owl_uri, URLS[0], data_uri(a_picture()), data_uri(a_picture())]


@pytest.mark.parametrize("name", ["nothing.png", ".", "ftp://a.example/fox.png"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.chdir(tmp_path)

    with pytest.raises(UnusableFile, match=r"^--image: ") as caught:
        picture_urls([name])
    assert str(Path(name)) in str(caught.value)


def test_files_are_refused_that_are_too_large_together(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fox = tmp_path / "fox.png"
    fox.write_bytes(b"x" * 50)
    monkeypatch.setattr(render, "MOST_BYTES", 100)

    assert len(picture_urls([str(fox)] * 2)) == 2
    with pytest.raises(UnusableFile, match="allowed: 100 bytes"):
        picture_urls([str(fox)] * 3)


def test_a_file_is_as_large_as_the_farm_takes_one() -> None:
    assert render.MOST_BYTES == MAX_BYTES
