"""One job by each way to submit, through real processes."""

from __future__ import annotations

import io
import json
import re
import socket
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import TypeAdapter

from farm.dialects.answers.native import UnreadableRequest
from farm.domain.catalogue import MODELS
from tests.farms import RunningFarm, farm_command, image_facts, wait_for
from tests.images import data_uri, sample_image


def test_the_farms_own_dialect(simulated: RunningFarm) -> None:
    """A job is accepted, followed by its URL, and its image is there, of the size asked for."""
    answer = simulated.call("POST", "/farm/v1/jobs", {"model": "srpo", "prompt": "a fox", "image_size": "square"})
    assert answer.status == 202
    assert answer.json["status"] == "created"

    view = simulated.wait_for_end(answer.json["id"])

    assert (view["status"], view["code"]) == ("completed", None)
    assert view["progress"] == {"step": 28, "steps": 28}
    assert image_facts(simulated.image(view)) == ((512, 512), "JPEG")


def test_four_images_of_one_job_differ(simulated: RunningFarm) -> None:
    view = simulated.wait_for_end(simulated.submit(num_images=4, output_format="png", num_inference_steps=3))

    images = {simulated.image(view, number) for number in range(4)}
    assert len(images) == 4


def test_wavespeed_over_http(simulated: RunningFarm) -> None:
    """The envelope says created at once, and completed with the image's URL afterwards."""
    body = {"prompt": "a fox", "size": "512*256", "seed": 7}
    answer = simulated.call("POST", "/api/v3/wavespeed-ai/flux-srpo", body)
    assert (answer.status, answer.json["code"]) == (200, 200)
    assert answer.json["data"]["status"] in ("created", "processing")

    path = answer.json["data"]["urls"]["get"].removeprefix(simulated.url)
    data = wait_for(lambda: next((d for d in [simulated.call("GET", path).json["data"]] if d["outputs"]), None))

    assert data is not None
    assert data["status"] == "completed"
    assert data["seed"] == 7
    rendered = simulated.call("GET", data["outputs"][0].removeprefix(simulated.url))
    assert image_facts(rendered.body) == ((512, 256), "JPEG")


def test_the_command_line(simulated: RunningFarm, tmp_path: Path) -> None:
    """`farm render` leaves the images in its folder and prints where they are."""
    done = simulated.cli("render", "A red fox!", "-n", "2", "--size", "320x256", "--seed", "7", "--out", str(tmp_path))

    assert done.returncode == 0, done.stderr
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a-red-fox-7.jpeg", "a-red-fox-8.jpeg"]
    assert all(image_facts(path) == ((320, 256), "JPEG") for path in tmp_path.iterdir())
    assert str(tmp_path / "a-red-fox-8.jpeg") in done.stdout


def test_the_command_line_for_machines(simulated: RunningFarm, tmp_path: Path) -> None:
    done = simulated.cli("render", "a fox", "--steps", "2", "--format", "png", "--json", "--out", str(tmp_path))

    view = json.loads(done.stdout)
    assert view["status"] == "completed"
    assert image_facts(Path(view["files"][0])) == ((1024, 768), "PNG")
    assert done.stderr == f"job: {view['id']}\n"


def test_the_command_line_shows_a_refusal(simulated: RunningFarm) -> None:
    """A wrong value is one line that names the field, and exit status 1."""
    done = simulated.cli("render", "a fox", "--steps", "51")

    assert done.returncode == 1
    assert re.fullmatch(r"farm: --steps: .*50.*\n", done.stderr)


def test_an_unusable_output_folder_is_refused_before_anything_is_rendered(
    simulated: RunningFarm, tmp_path: Path
) -> None:
    file = tmp_path / "out"
    file.touch()
    newest = newest_job(simulated)

    done = simulated.cli("render", "a fox", "--out", str(file))

    assert (done.returncode, done.stderr) == (1, f"farm: --out: cannot write {file}: File exists.\n")
    assert newest_job(simulated) == newest


def newest_job(farm: RunningFarm) -> list[str]:
    """Return the id of the newest job, if there is one."""
    page: Any = farm.call("GET", "/farm/v1/jobs?limit=1").json
    return [job["id"] for job in page["jobs"]]


@pytest.fixture
def fox(tmp_path: Path) -> Path:
    """Return an image of 320 by 256 pixels."""
    file = tmp_path / "fox.png"
    file.write_bytes(sample_image(320, 256, colour="orange"))
    return file


def rendered(farm: RunningFarm, *words: str) -> dict[str, Any]:
    """Return the job of `farm render` with these arguments, and the files that it saved."""
    done = farm.cli("render", "A red fox!", *words, "--format", "png", "--json")
    assert done.returncode == 0, done.stderr
    view: dict[str, Any] = json.loads(done.stdout)
    return view


def test_the_command_line_makes_an_image_of_an_image(simulated: RunningFarm, fox: Path, tmp_path: Path) -> None:
    """The result has the input's size; and the farm's URL of it may be the next input."""
    first = rendered(simulated, "--image", str(fox), "--strength", "0.5", "--steps", "10", "--out", str(tmp_path))

    assert (first["model"], first["strength"]) == ("srpo-image-to-image", 0.5)
    assert first["progress"] == {"step": 5, "steps": 5}
    assert image_facts(Path(first["files"][0])) == ((320, 256), "PNG")
    (source,) = first["inputs"]
    copy = simulated.call("GET", source.removeprefix(simulated.url)).body
    assert image_facts(copy) == image_facts(fox)

    (url,) = [image["url"] for image in first["images"]]
    second = rendered(simulated, "--image", url, "--steps", "10", "--out", str(tmp_path))
    assert (second["inputs"], second["strength"]) == ([url], 0.95)


@pytest.mark.parametrize(
    ("count", "model", "size"),
    [(0, "kontext-text-to-image", (752, 1392)), (1, "kontext", (1184, 880)), (2, "kontext-multi", (1184, 880))],
)
def test_the_command_line_knows_kontext_with_any_number_of_images(
    simulated: RunningFarm, fox: Path, tmp_path: Path, count: int, model: str, size: tuple[int, int]
) -> None:
    """The ratio is `--aspect-ratio`, or as close as possible to the first image's."""
    ratio = [] if count else ["--aspect-ratio", "9:16"]

    view = rendered(simulated, "--model", "kontext", *ratio, *["--image", str(fox)] * count, "--out", str(tmp_path))

    assert (view["model"], len(view["inputs"])) == (model, count)
    assert image_facts(Path(view["files"][0])) == (size, "PNG")


def test_the_command_line_has_a_prompt_enhanced(simulated: RunningFarm, tmp_path: Path) -> None:
    view = rendered(simulated, "--enhance", "--size", "256x256", "--steps", "1", "--seed", "7", "--out", str(tmp_path))

    assert view["original_prompt"] == "A red fox!"
    assert view["prompt"] != "A red fox!"
    assert [Path(file).name for file in view["files"]] == ["a-red-fox-7.png"]


@pytest.mark.parametrize(
    ("words", "field"),
    [
        (["--strength", "0.5"], "--strength"),
        (["--aspect-ratio", "1:1"], "--aspect-ratio"),
        (["--model", "kontext", "--steps", "20"], "--steps"),
        (["--model", "kontext", "--no-safety-checker"], "--safety-checker"),
        (["--model", "kontext", "--acceleration", "none"], "--acceleration"),
        (["--image", "data:image/png;base64,!"], "--image"),
    ],
)
def test_the_command_line_drops_nothing_that_the_model_does_not_take(
    simulated: RunningFarm, words: list[str], field: str
) -> None:
    done = simulated.cli("render", "a fox", *words)

    assert done.returncode == 1
    assert re.fullmatch(rf"farm: {field}: .*\n", done.stderr)


def test_the_command_line_names_a_file_that_is_not_there(simulated: RunningFarm) -> None:
    done = simulated.cli("render", "a fox", "--image", "nothing.png")

    assert (done.returncode, done.stderr) == (
        1,
        "farm: --image: cannot read nothing.png: No such file or directory.\n",
    )


def test_wavespeeds_image_to_image_over_http(simulated: RunningFarm) -> None:
    """Text to image with an image, too; at strength 0 it is the image itself, resized."""
    image = data_uri(sample_image(320, 256, colour="orange"))
    for model in ("flux-srpo-image-to-image", "flux-srpo"):
        body = {"prompt": "a fox", "image": image, "strength": 0, "size": "256*256", "output_format": "png"}
        answer = simulated.call("POST", f"/api/v3/wavespeed-ai/{model}", body | {"enable_sync_mode": True})

        assert (answer.status, answer.json["data"]["status"]) == (200, "completed"), answer.body
        (url,) = answer.json["data"]["outputs"]
        with Image.open(io.BytesIO(simulated.call("GET", url.removeprefix(simulated.url)).body)) as rendered:
            assert (rendered.size, rendered.convert("RGB").getpixel((128, 128))) == ((256, 256), (255, 165, 0))


def test_the_command_line_without_a_farm() -> None:
    done = farm_command("jobs", environment={"FARM_URL": "http://127.0.0.1:9"})

    assert done.returncode == 1
    assert done.stderr.count("\n") == 1
    assert "farm up" in done.stderr


def test_looking_at_jobs_workers_and_models(simulated: RunningFarm) -> None:
    job_id = simulated.submit(num_inference_steps=2)
    simulated.wait_for_end(job_id)

    assert job_id in simulated.cli("jobs").stdout
    assert job_id in simulated.cli("jobs", "list", "--status", "completed").stdout
    assert json.loads(simulated.cli("jobs", "show", job_id, "--json").stdout)["status"] == "completed"
    assert simulated.cli("jobs", "cancel", job_id).stdout.startswith("ended")
    assert "warm" in simulated.cli("workers").stdout
    models = simulated.cli("models").stdout
    assert all(model_id in models for model in MODELS for model_id in model.ids)
    assert simulated.cli("jobs", "delete", job_id).stdout == "deleted\n"
    assert simulated.cli("jobs", "show", job_id).returncode == 1


def test_events_tell_the_whole_way(simulated: RunningFarm) -> None:
    """The stream of a job ends with its terminal state, and its ids grow."""
    job_id = simulated.submit(num_inference_steps=50)

    text = simulated.call("GET", f"/farm/v1/jobs/{job_id}/events").body.decode()

    names = re.findall(r"^event: (.+)$", text, re.MULTILINE)
    ids = [tuple(map(int, found.split("."))) for found in re.findall(r"^id: (.+)$", text, re.MULTILINE)]
    assert names[-1] == "job.completed"
    assert "job.processing" in names
    assert ids == sorted(ids)


def test_metrics_count_what_happened(simulated: RunningFarm) -> None:
    simulated.wait_for_end(simulated.submit(num_inference_steps=1))

    text = simulated.call("GET", "/metrics").body.decode()

    assert re.search(r'^farm_jobs_completed_total\{model="srpo"\} [1-9]', text, re.MULTILINE)
    assert re.search(r'^farm_workers\{state="warm"\} 1\.0$', text, re.MULTILINE)
    assert "farm_store_up 1.0" in text


@pytest.mark.parametrize(
    ("sent", "status"),
    [
        (b"NONSENSE\r\n\r\n", 400),
        (b"GET /healthz HTTP/9.9\r\n\r\n", 400),
        (b"GET /" + b"a" * 9000 + b" HTTP/1.1\r\n\r\n", 414),
        (b"GET /healthz HTTP/1.1\r\nA: " + b"a" * 9000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nBad Header: x\r\n\r\n", 400),
    ],
)
def test_bytes_that_are_not_http_are_answered_in_json(simulated: RunningFarm, sent: bytes, status: int) -> None:
    """Never HTML, whatever arrives at the socket."""
    with socket.create_connection(("127.0.0.1", simulated.port), timeout=5) as connection:
        connection.sendall(sent)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))

    head, _, body = answer.partition(b"\r\n\r\n")
    assert int(head.split()[1]) == status
    assert json.loads(body)["status"] == status
    TypeAdapter(UnreadableRequest).validate_json(body, strict=True)
