"""Files of requests, grids over them, manifests, and contact sheets."""

from __future__ import annotations

import csv
import io
import sys
from pathlib import Path
from typing import Any

import pytest
import typer
from PIL import Image

from farm.cli import manifest
from farm.cli.contact_sheet import CELL, MAX_IMAGES, Thumbnail, UnreadableImage, contact_sheet, pages_of
from farm.cli.grid import Axis, columns, grid, seeds_of, values_of
from farm.cli.manifest import Row
from farm.cli.output import Folder
from farm.cli.overview import PAGE_IMAGES, write_contact_sheets, write_pages
from farm.cli.render_requests import grid_axes
from farm.cli.request_file import FileRequest, UnusableRequests, read_requests, refuse_shared_files


def requests(folder: Path, name: str, text: str) -> list[tuple[str, dict[str, Any]]]:
    (folder / name).write_text(text)
    found = read_requests(str(folder / name))
    refuse_shared_files(found)
    return [(request.id, dict(request.fields)) for request in found]


def test_jsonl_csv_and_text_are_read(tmp_path: Path) -> None:
    fox, owl = {"prompt": "a fox", "seed": 7}, {"prompt": "an owl, at night"}

    assert requests(
        tmp_path, "a.jsonl", '{"id": "x", "prompt": "a fox", "seed": 7}\n\n{"prompt": "an owl, at night"}'
    ) == [
        ("x", fox),
        ("2", owl),
    ]
    assert requests(tmp_path, "a.csv", '\ufeffid,prompt,seed\nx,a fox,7\n,"an owl, at night",\n') == [
        ("x", fox),
        ("2", owl),
    ]
    assert requests(tmp_path, "a.tsv", "prompt\tseed\na fox\t7\n") == [("1", fox)]
    assert requests(tmp_path, "a.txt", "7\r\n\r\nan owl, at night\n") == [("1", {"prompt": "7"}), ("2", owl)]
    assert [name for name, _ in requests(tmp_path, "a", "x\n" * 10)][::9] == ["01", "10"]


@pytest.mark.parametrize(
    ("text", "fields"),
    [
        ('{"prompt": "a fox"}', {"prompt": "a fox"}),
        ("a fox", {"prompt": "a fox"}),
        ("a fox, promptly", {"prompt": "a fox, promptly"}),
        ('"prompt",seed\r\na fox,7\r\n', {"prompt": "a fox", "seed": 7}),
    ],
)
def test_the_form_of_the_standard_input_shows_in_its_first_line(
    monkeypatch: pytest.MonkeyPatch, text: str, fields: dict[str, Any]
) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))

    assert [request.fields for request in read_requests("-")] == [fields]


@pytest.mark.parametrize(
    ("name", "text", "problem"),
    [
        ("a.jsonl", '{"prompt": "x"}\n{"prompt"', "line 2: it is not JSON"),
        ("a.jsonl", "[]", "line 1: it must be a JSON object"),
        ("a.jsonl", '{"seed": 7}', "line 1: prompt is missing"),
        ("a.jsonl", '{"id": ["x"], "prompt": "x"}', "line 1: id must be"),
        (
            "a.jsonl",
            '{"id": "A/b", "prompt": "x"}\n\n{"id": "a-B", "prompt": "x"}',
            "line 3: the id 'a-B' makes the same",
        ),
        (
            "a.jsonl",
            '{"id": "x", "prompt": "x", "num_images": 2}\n{"id": "X-2", "prompt": "x"}',
            "line 2: the id 'X-2' makes the same files as 'x'",
        ),
        ("a.csv", "prompt\nx,y\n", "line 2: it has more values"),
        ("a.csv", "prompt;seed\nx;7\n", "line 1: it must name the columns, of which one is 'prompt', with a comma"),
        ("a.csv", 'prompt\n"x"y"\n', "line 2: it is not CSV"),
        ("a.txt", "\n \n", "has no requests"),
    ],
)
def test_an_unreadable_request_is_named_by_its_line(tmp_path: Path, name: str, text: str, problem: str) -> None:
    with pytest.raises(UnusableRequests, match=problem):
        requests(tmp_path, name, text)


@pytest.mark.parametrize("content", [None, b"\xff\xfe\xff"])
def test_a_file_that_cannot_be_read_is_named(tmp_path: Path, content: bytes | None) -> None:
    if content:
        (tmp_path / "a.txt").write_bytes(content)

    with pytest.raises(UnusableRequests, match=r"a\.txt"):
        read_requests(str(tmp_path / "a.txt"))


def test_files_are_named_by_the_id_without_what_a_path_may_not_have() -> None:
    names = [FileRequest(name, {}).stem for name in ("fox_1.b", "../../etc/x", "ä ö", "..", "a/b", "Contact-sheet-1")]

    assert names == ["fox_1.b", "-..-etc-x", "-", "image", "a-b", "image-Contact-sheet-1"]


def test_a_grid_has_every_combination_and_names_it() -> None:
    axes = [Axis("seed", "s", [4294967294, 4294967295]), Axis("guidance_scale", "g", [3.0, 4.5])]

    made = grid([FileRequest("fox", {"prompt": "a fox", "seed": 9})], axes)

    assert [request.id for request in made] == [
        f"fox-s{seed}-g{guidance}" for seed in (4294967294, 4294967295) for guidance in ("3", "4.5")
    ]
    assert made[1].fields == {"prompt": "a fox", "seed": 4294967294, "guidance_scale": 4.5}
    assert (columns(axes), columns([])) == (2, 0)


def test_values_are_numbers_and_ranges() -> None:
    assert seeds_of("--seeds", "1-3,7, 9-9") == [1, 2, 3, 7, 9]
    assert values_of("--guidance", "3,4.5", float) == [3, 4.5]
    assert [axis.values for axis in grid_axes(seed=None, seeds="1-3,2", guidance="3,3.0", steps=None)] == [
        [1, 2, 3],
        [3.0],
    ]
    for text in ("3-1", "1-100000", "x", "", "1,,2"):
        with pytest.raises(typer.BadParameter) as refused:
            seeds_of("--seeds", text)
        assert "'--seeds'" in refused.value.format_message()


def test_a_manifest_is_read_as_it_was_written_and_has_no_formulas() -> None:
    rows = [
        Row("a", "completed", "d", "=1+1", "srpo", files=("a-1.png", "a-2.png"), seed=7, job="j"),
        Row("b", "failed", "e", "ü", "srpo", error="no", http_status=400),
        Row("c", "failed", "f", "\t=1+1", "srpo", error="@no", http_status=400),
    ]

    assert list(manifest.parse(manifest.as_jsonl(rows) + b"no json\n{}\n").values()) == rows
    table = list(csv.DictReader(io.StringIO(manifest.as_csv(rows).decode())))
    assert [line["prompt"] for line in table] == ["'=1+1", "ü", "'\t=1+1"]
    assert table[0]["files"] == "a-1.png a-2.png"


def image(width: int, height: int, colour: str = "red") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (width, height), colour).save(file, "PNG")
    return file.getvalue()


def test_a_contact_sheet_has_each_image_in_its_place() -> None:
    colours = ["red", "lime", "blue", "yellow", "cyan"]
    page = Image.open(io.BytesIO(contact_sheet([Thumbnail(name, image(200, 100, name)) for name in colours], 2)))

    found = [page.getpixel((12 + 120 + number % 2 * 252, 12 + 60 + number // 2 * 152)) for number in range(5)]
    near = [[round(value / 255) for value in pixel] for pixel in found if isinstance(pixel, tuple)]
    assert near == [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 1, 0], [0, 1, 1]]
    assert page.size == (2 * (CELL + 12) + 12, 3 * 152 + 12)


def test_contact_sheets_divide_no_row() -> None:
    assert [len(page) for page in pages_of(130)] == [MAX_IMAGES, MAX_IMAGES, 10]
    assert [len(page) for page in pages_of(130, 8)] == [56, 56, 18]
    with pytest.raises(UnreadableImage, match="fox"):
        contact_sheet([Thumbnail("fox", b"no image")])


def test_overviews_of_many_images_have_several_pages(tmp_path: Path) -> None:
    output = Folder(tmp_path)
    files = tuple(f"{number}.png" for number in range(PAGE_IMAGES + 1))
    output.write(files[0], image(64, 64))

    assert write_pages(output, [Row("a", "completed", "d", "a fox", "srpo", files=files)]) == "index.html"
    assert write_contact_sheets(output, [Row("a", "completed", "d", "a fox", "srpo", files=files[:1])]) == [
        "contact-sheet.jpeg"
    ]
    assert f"{PAGE_IMAGES}.png" in (tmp_path / "index-2.html").read_text()
    assert 'href="index-2.html"' in (tmp_path / "index.html").read_text()
