"""`farm render --from` against a real API, with a background process and a worker: files, resuming, buckets."""

from __future__ import annotations

import json
import os
import re
import threading
import tracemalloc
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from rich.console import Console

from api.app import create_app
from farm.bootstrap import Farm
from farm.cli import bulk_render
from farm.cli.batches import BatchClient
from farm.cli.bulk_render import MAX_FILE_BYTES, MAX_TRIES, BulkRender, body_of
from farm.cli.output import Folder
from farm.cli.request_file import FileRequest
from farm.domain.catalogue import SRPO
from farm.domain.error_codes import Code
from tests.farms import image_facts
from tests.s3 import S3
from tests.service.bulk.bulks import BATCHES, BulkHarness, HarnessOpener, job_ids
from tests.service.cli.commands import Runner, interrupt, served
from tests.service.jobstore.jobs import BASE, FACTS, take

SMALL = {"image_size": {"width": 256, "height": 256}, "num_inference_steps": 1}


class LiveFarm:
    """A farm that a test may let work, and its URL. The next jobs fail with the codes of `failures`."""

    def __init__(self, harness: BulkHarness, url: str) -> None:
        self.harness = harness
        self.url = url
        self.failures: list[Code] = []
        self.works = threading.Event()
        self.works.set()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._work)
        self._thread.start()

    def _work(self) -> None:
        while not self._stopping.wait(0.02):
            self.harness.runner.work()
            if self.failures:
                self._fail()
            elif self.works.is_set():
                self.harness.worker.work()

    def _fail(self) -> None:
        """Claim jobs as another worker, and end them without an image."""
        store = self.harness.farm.store
        for job in take(store, "w"):
            store.fail(job, self.failures.pop(0), "It failed.")

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join()


@pytest.fixture
def live(farm: Farm, open_harness: HarnessOpener, monkeypatch: pytest.MonkeyPatch) -> Iterator[LiveFarm]:
    monkeypatch.setattr(bulk_render, "_POLL_SECONDS", 0.05)
    farm.store.renew("w", FACTS, [])
    app = create_app(farm, base=BASE, with_keys=False, max_streams=4, max_held_calls=4, host_decides=True)
    with served(app) as url:
        live = LiveFarm(open_harness(app.test_client()), url)
        yield live
        live.stop()


def file_of(folder: Path, *requests: dict[str, Any]) -> str:
    path = folder / "prompts.jsonl"
    path.write_text("".join(json.dumps(SMALL | request) + "\n" for request in requests))
    return str(path)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    found = [json.loads(line) for line in (out / "manifest.jsonl").read_text().splitlines()]
    return {row["id"]: row for row in found}


def test_each_request_of_a_file_has_its_image_and_its_row(live: LiveFarm, run: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    source = file_of(tmp_path, {"id": "fox", "prompt": "a fox", "seed": 7}, {"prompt": "an owl", "num_images": 2})

    ended = run.at(live.url)("render", "--from", source, "--out", str(out), "--format", "png", "--sheet")

    assert (ended.status, ended.out.splitlines()[0]) == (0, f"3 images in {out}, listed in manifest.jsonl")
    assert re.search(r"requests .* 2/2 .*0:00:00", ended.err)
    assert {name: row["files"] for name, row in rows(out).items()} == {"fox": ["fox.png"], "2": ["2-1.png", "2-2.png"]}
    assert rows(out)["fox"]["seed"] == 7
    assert image_facts(out / "2-2.png") == ((256, 256), "PNG")
    assert all(f'src="{name}"' in (out / "index.html").read_text() for name in ("fox.png", "2-1.png", "2-2.png"))
    assert image_facts(out / "contact-sheet.jpeg")[1] == "JPEG"
    assert "an owl" in (out / "manifest.csv").read_text()


def test_the_same_command_renders_what_is_missing_and_nothing_else(
    live: LiveFarm, farm: Farm, run: Runner, tmp_path: Path
) -> None:
    out = tmp_path / "out"
    words = (
        "render",
        "--from",
        file_of(tmp_path, *({"prompt": str(number)} for number in range(4))),
        "--out",
        str(out),
    )
    assert run.at(live.url)(*words).status == 0
    (out / "2.jpeg").unlink()

    assert run.at(live.url)(*words).status == 0
    assert len(job_ids(farm)) == 5
    assert image_facts(out / "2.jpeg")[1] == "JPEG"
    assert " 4/4 " in run.at(live.url)(*words).err

    assert run.at(live.url)(*words, "--guidance", "3").status == 0  # other requests
    assert len(job_ids(farm)) == 9


def test_a_lone_surrogate_in_an_id_or_a_prompt_ends_no_run(live: LiveFarm, run: Runner, tmp_path: Path) -> None:
    """A program that cuts texts by UTF-16 units leaves half an emoji, which UTF-8 cannot hold."""
    out, half = tmp_path / "out", "\ud83d"
    requests = ({"id": f"fox{half}", "prompt": "a fox"}, {"id": "owl", "prompt": f"an owl {half}"})
    words = ("render", "--from", file_of(tmp_path, *requests), "--out", str(out))

    for _ in range(2):  # the second time the manifest has both
        ended = run.at(live.url)(*words)

        assert (ended.status, "Traceback" in ended.err) == (1, False)
        assert "owl: prompt: " in ended.err
    assert rows(out)[f"fox{half}"]["files"] == ["fox-.jpeg"]
    assert all(text in (out / "manifest.csv").read_text() for text in (r"fox\ud83d", r"an owl \ud83d"))
    assert r"fox\ud83d" in (out / "index.html").read_text()


def test_an_id_of_any_dialect_names_the_same_model_for_one_image_and_for_several(
    live: LiveFarm, farm: Farm, run: Runner, tmp_path: Path
) -> None:
    words = ("render", "a fox", "--steps", "1", "--out", str(tmp_path))
    farm.service._aliases = {"sdxl": SRPO.of("siraya")[0]}

    for model_id in (SRPO.name, *(SRPO.of(dialect)[0] for dialect in ("fal", "wavespeed", "siraya")), "sdxl"):
        for seeds in ("7", "7,8"):
            assert run.at(live.url)(*words, "--model", model_id, "--seeds", seeds).status == 0, (model_id, seeds)

    jobs = [farm.store.get(job_id) for job_id in job_ids(farm)]
    one, *others = (job.request.model_copy(update={"seed": 7}) for job in jobs if job)
    assert others == [one] * 6, "one job of each single command, and the two of the first grid: the others found them"


def test_the_error_of_a_request_names_the_option_that_was_typed(live: LiveFarm, run: Runner, tmp_path: Path) -> None:
    words = ("render", "a fox", "--steps", "10,99", "--strength", "0.5", "--out", str(tmp_path / "out"))

    ended = run.at(live.url)(*words)

    assert "a-fox-t10: --strength: this model has no such option; sent: 0.5" in ended.err.splitlines()
    assert "a-fox-t99: --steps: Input should be less than or equal to 50; sent: 99; --strength: " in ended.err


def test_failed_requests_are_named_and_tried_again(live: LiveFarm, run: Runner, tmp_path: Path) -> None:
    out = tmp_path / "out"
    bad = {"id": "bad", "prompt": "a fox", "num_inference_steps": 99}
    words = ("render", "--from", file_of(tmp_path, {"id": "good", "prompt": "a fox"}, bad), "--out", str(out))

    ended = run.at(live.url)(*words)

    assert ended.status == 1
    assert "bad: num_inference_steps: " in ended.err
    assert (
        ended.err.splitlines()[-1]
        == "farm: 1 request has no image. Correct what is wrong; the same command tries again."
    )
    assert (rows(out)["bad"]["status"], rows(out)["good"]["status"]) == ("failed", "completed")
    file_of(tmp_path, {"id": "good", "prompt": "a fox"}, bad | {"num_inference_steps": 2})
    assert run.at(live.url)(*words).status == 0


@pytest.mark.parametrize(
    ("failures", "status"),
    [([Code.INTERNAL_ERROR], 0), ([Code.INTERNAL_ERROR] * MAX_TRIES, 1), ([Code.FILE_DOWNLOAD_ERROR], 1)],
    ids=["it works the second time", "it fails each time", "it cannot work later"],
)
def test_a_failed_request_is_tried_again_in_a_run_if_it_may_work_later_and_by_the_same_command(
    live: LiveFarm, farm: Farm, run: Runner, tmp_path: Path, failures: list[Code], status: int
) -> None:
    words = ("render", "--from", file_of(tmp_path, {"id": "fox", "prompt": "a fox"}), "--out", str(tmp_path / "out"))
    live.failures = [*failures]

    assert run.at(live.url)(*words).status == status
    assert len(job_ids(farm)) == len(failures) + (status == 0)
    assert rows(tmp_path / "out")["fox"]["status"] == ("failed" if status else "completed")

    assert run.at(live.url)(*words).status == 0
    assert len(job_ids(farm)) == len(failures) + 1
    assert rows(tmp_path / "out")["fox"]["files"] == ["fox.jpeg"]


def test_an_interrupted_run_is_continued_by_the_same_command(
    live: LiveFarm, farm: Farm, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    words = (
        "render",
        "--from",
        file_of(tmp_path, *({"prompt": str(number)} for number in range(3))),
        "--out",
        str(out),
    )
    live.works.clear()
    with monkeypatch.context() as patch:
        patch.setattr("farm.cli.bulk_render.clock", SimpleNamespace(pause=interrupt))
        ended = run.at(live.url)(*words)
    assert (ended.status, ended.err.splitlines()[-1]) == (
        130,
        "The farm goes on. The same command collects what it has rendered.",
    )
    live.works.set()

    assert run.at(live.url)(*words).status == 0

    assert len(live.harness.api.get(BATCHES).get_json()["data"]) == 1
    assert len(job_ids(farm)) == 3
    assert len(rows(out)) == 3


def test_a_command_that_dies_before_its_batch_is_known_creates_no_second_one(
    live: LiveFarm, farm: Farm, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is killed after the farm has accepted the batch, and before it has noted that."""
    words = ("render", "--from", file_of(tmp_path, {"prompt": "a fox"}), "--out", str(tmp_path / "out"))
    create = BatchClient.create

    def dies(*arguments: Any, **named: Any) -> dict[str, Any]:
        create(*arguments, **named)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(BatchClient, "create", dies)
        assert run.at(live.url)(*words).status == 130

    assert run.at(live.url)(*words).status == 0
    assert len(live.harness.api.get(BATCHES).get_json()["data"]) == len(job_ids(farm)) == 1


def test_many_requests_are_several_batches(
    live: LiveFarm, farm: Farm, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bulk_render, "PART_REQUESTS", 2)
    source = tmp_path / "prompts.txt"
    source.write_text("".join(f"fox {number}\n" for number in range(5)))

    ended = run.at(live.url)(
        "render", "--from", str(source), "--size", "256x256", "--steps", "1", "--out", str(tmp_path / "o")
    )

    assert ended.status == 0
    assert [len(live.harness.api.get(BATCHES).get_json()["data"]), len(job_ids(farm))] == [3, 5]


@pytest.mark.filterwarnings("ignore:Image.Image.getdata is deprecated")  # which the library of --show calls
def test_a_prompt_with_several_values_is_a_grid(live: LiveFarm, run: Runner, tmp_path: Path) -> None:
    words = ("a red fox", "--seeds", "1-2", "--guidance", "3,4.5", "--steps", "1", "--size", "256x256", "--show")

    ended = run.at(live.url)("render", *words, "--out", str(tmp_path), "--json")

    assert len(re.findall("[\u2580-\u2593]", ended.err)) > 1000, "the images in blocks"

    names = [row["id"] for row in json.loads(ended.out)["requests"]]
    assert names == ["a-red-fox-s1-g3", "a-red-fox-s1-g4.5", "a-red-fox-s2-g3", "a-red-fox-s2-g4.5"]
    assert {row["seed"] for row in rows(tmp_path).values()} == {1, 2}


def test_the_fields_of_a_request_override_the_options(live: LiveFarm, run: Runner, tmp_path: Path) -> None:
    out, source = tmp_path / "out", tmp_path / "prompts.csv"
    source.write_text("prompt,image_size,size,n\na fox,256x320,,2\nan owl,,320x256,\na cat,,,\n")

    ended = run.at(live.url)("render", "--from", str(source), "--size", "256x256", "-n", "1", "--out", str(out))

    assert ended.status == 0
    assert {name: image_facts(out / f"{name}.jpeg")[0] for name in ("1-1", "1-2", "2", "3")} == {
        "1-1": (256, 320),
        "1-2": (256, 320),
        "2": (320, 256),
        "3": (256, 256),
    }


@pytest.mark.parametrize("name", ["image_url", "image_urls"])
def test_an_input_image_may_be_a_file(tmp_path: Path, name: str) -> None:
    file, url = tmp_path / "fox.png", "https://a.example/owl.png"
    file.write_bytes(b"fox")
    sent = "data:image/png;base64,Zm94"

    fields = {"image_url": str(file)} if name == "image_url" else {"image_urls": [str(file), url]}

    assert body_of(FileRequest("fox", fields))[name] == (sent if name == "image_url" else [sent, url])


def test_files_of_input_images_are_not_kept(tmp_path: Path) -> None:
    (tmp_path / "noise.png").write_bytes(os.urandom(2_000_000))
    edit = {"prompt": "a fox", "model": "srpo", "image_url": str(tmp_path / "noise.png")}
    requests = [FileRequest(str(number), edit) for number in range(20)]

    tracemalloc.start()
    BulkRender(cast(BatchClient, None), Folder(tmp_path), requests, Console())
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert peak < 15_000_000


@pytest.mark.parametrize(
    ("image", "problem"),
    [
        ("nothing.png", "farm: fox: cannot read nothing.png: No such file or directory."),
        ("a\0b", r"farm: fox: no file has the name 'a\x00b': embedded null byte."),
        (5, "farm: --from, line 1: an input image must be a text: a URL, or the name of a file."),
        (
            "/dev/zero",
            f"farm: fox: the files are too large; allowed: {MAX_FILE_BYTES} bytes together. Give URLs instead.",
        ),
    ],
)
def test_an_unusable_input_image_is_named(
    live: LiveFarm, run: Runner, tmp_path: Path, image: object, problem: str
) -> None:
    ended = run.at(live.url)("render", "--from", file_of(tmp_path, {"id": "fox", "prompt": "x", "image_url": image}))

    assert (ended.status, ended.err) == (1, f"{problem}\n")


def test_images_go_into_a_bucket(
    live: LiveFarm, farm: Farm, run: Runner, tmp_path: Path, s3: S3, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = s3.place()
    for name, value in s3.environment().items():
        monkeypatch.setenv(name, value)
    out = f"{place.url}/night"
    words = ("render", "--from", file_of(tmp_path, {"id": "fox", "prompt": "a fox"}), "--out", out, "--sheet")

    assert [run.at(live.url)(*words).status for _ in range(2)] == [0, 0]

    assert len(job_ids(farm)) == 1
    assert {name.removeprefix("night/") for name in place.names()} == {
        *("fox.jpeg", "manifest.jsonl", "manifest.csv", "index.html", "contact-sheet.jpeg", ".farm-render.json")
    }
    fox = place.get("night/fox.jpeg")
    assert (image_facts(fox["Body"]), fox["ContentType"]) == (((256, 256), "JPEG"), "image/jpeg")
    assert run.at(live.url)("render", "an owl", "--steps", "1", "--size", "256x256", "--out", out).status == 0
    assert "night/an-owl.jpeg" in place.names()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([], "give either PROMPT or --from FILE"),
        (["a fox", "--from", "x.jsonl"], "give either PROMPT or --from FILE"),
        (["--from", "nothing.jsonl"], "cannot read nothing.jsonl"),
        (["a fox", "--seeds", "x"], "Invalid value for '--seeds': 'x' is not a list of numbers; allowed: 7, or"),
        (["a fox", "--guidance", ""], "Invalid value for '--guidance': '' is not a list of numbers; allowed: 4.5, or"),
        (["a fox", "--seed", "1", "--seeds", "1-2"], "give either --seed or --seeds"),
    ],
)
def test_wrong_options_are_one_line(live: LiveFarm, run: Runner, words: list[str], message: str) -> None:
    ended = run.at(live.url)("render", *words)

    assert ended.status in (1, 2)
    assert message in ended.err
    assert len(ended.err.strip().splitlines()) == 1
