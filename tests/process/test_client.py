"""The Python client, against a farm."""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterator
from pathlib import Path
from threading import Thread, current_thread
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell
from PIL import Image

from farm.client import AsyncClient, CallFailed, Client, JobFailed, JobState
from tests.docs_snippets import Snippet, executed_by
from tests.farms import RunningFarm, running_farm

SMALL: Any = {"image_size": {"width": 256, "height": 256}}


@pytest.fixture(scope="module")
def slow(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Client]:
    """Yield a client of a farm that takes longer for an image than between two reports of its progress."""
    with running_farm(tmp_path_factory.mktemp("slow") / "data", FARM_SIMULATED_STEP_MS="25") as farm:
        yield Client(farm.url)


@pytest.fixture
def client(simulated: RunningFarm) -> Client:
    return Client(simulated.url)


def test_a_prompt_becomes_pillow_images(client: Client) -> None:
    images = client.render("a fox", num_images=2, seed=7, **SMALL)

    assert [image.size for image in images] == [(256, 256)] * 2
    assert images[0].tobytes() != images[1].tobytes()
    assert client.render("a fox", seed=8, **SMALL)[0].tobytes() == images[1].tobytes()


def test_a_level_of_acceleration_computes_part_of_the_steps(client: Client) -> None:
    levels: list[Any] = [{}, {"acceleration": "none"}, {"acceleration": "regular"}, {"acceleration": "high"}]
    jobs = [client.submit("a fox", num_inference_steps=12, **level, **SMALL) for level in levels]

    assert [job.wait().data["timings"]["full_steps"] for job in jobs] == [12, 12, 6, 5]


def test_progress_is_reported_until_the_end(slow: Client) -> None:
    seen: list[JobState] = []
    slow.render("a fox", on_progress=seen.append, num_inference_steps=50, **SMALL)

    steps = [state.step for state in seen]
    assert steps == sorted(steps)
    assert any(0 < step < 50 for step in steps)
    assert (seen[-1].status, seen[-1].step, seen[-1].steps) == ("completed", 50, 50)


@pytest.mark.parametrize("how", ["a Pillow image", "a path", "bytes", "a data URI"])
def test_an_input_image_is_given_in_any_form(client: Client, tmp_path: Path, how: str) -> None:
    file = tmp_path / "input.png"
    Image.new("RGB", (320, 256), "red").save(file)
    uri = "data:image/png;base64," + base64.b64encode(file.read_bytes()).decode()
    forms: dict[str, Any] = {
        "a Pillow image": Image.new("RGB", (320, 256), "red"),
        "a path": file,
        "bytes": file.read_bytes(),
        "a data URI": uri,
    }

    (image,) = client.render("in blue", forms[how], num_inference_steps=10)

    assert image.size == (320, 256)


def test_several_input_images_choose_the_model_for_several(client: Client) -> None:
    red, blue = (Image.new("RGB", (256, 256), colour) for colour in ("red", "blue"))
    job = client.submit("side by side", red, blue, model="kontext")

    assert job.wait().data["model"] == "kontext-multi"


def test_a_wrong_parameter_and_a_cancelled_job_raise(client: Client) -> None:
    with pytest.raises(CallFailed, match="num_inference_steps"):
        client.render("a fox", num_inference_steps=99)

    job = client.submit("a fox", num_inference_steps=50, num_images=4)
    assert job.cancel() in ("cancelled", "stopping")
    with pytest.raises(JobFailed, match="cancelled") as failed:
        job.images()
    assert failed.value.code == "cancelled"


def test_asyncio_renders_several_at_a_time(simulated: RunningFarm) -> None:
    async def both() -> tuple[list[Image.Image], list[Image.Image]]:
        client = AsyncClient(simulated.url)
        job = await client.submit("a fox", **SMALL)
        statuses = [state.status async for state in job.watch()]
        assert statuses[-1] == "completed"
        owl = client.render("an owl", on_progress=lambda state: seen.append((state.status, current_thread())), **SMALL)
        return await asyncio.gather(job.images(), owl)

    seen: list[tuple[str, Thread]] = []
    fox, owl = asyncio.run(both())
    assert fox[0].tobytes() != owl[0].tobytes()
    assert seen[-1] == ("completed", current_thread()), "progress is told by the event loop"


def test_asyncio_raises_for_a_job_that_failed(simulated: RunningFarm) -> None:
    async def cancelled() -> None:
        job = await AsyncClient(simulated.url).submit("a fox", num_inference_steps=50, num_images=4)
        await job.cancel()
        await job.wait()

    with pytest.raises(JobFailed, match="cancelled"):
        asyncio.run(cancelled())


def test_a_notebook_shows_progress_and_then_the_images(slow: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    shown: list[dict[str, Any]] = []
    shell: Any = InteractiveShell.instance()
    monkeypatch.setattr(shell.display_pub, "publish", lambda data, **_: shown.append(data))
    monkeypatch.setattr(shell.display_formatter, "active_types", ["text/plain", "image/png"])

    shell.display_formatter.format(slow.submit("a fox", num_inference_steps=50, **SMALL))

    assert any("step" in data["text/plain"] for data in shown)
    assert "image/png" in shown[-1]


@pytest.mark.parametrize(
    "snippet", executed_by("test_the_examples_of_its_page_work"), ids=lambda snippet: snippet.number
)
def test_the_examples_of_its_page_work(
    simulated: RunningFarm, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, snippet: Snippet
) -> None:
    monkeypatch.chdir(tmp_path)

    exec(snippet.code.replace("http://127.0.0.1:8000", simulated.url), {"__name__": "__main__"})


def test_a_rendered_image_is_shown_in_the_terminal(simulated: RunningFarm, tmp_path: Path) -> None:
    words = ["render", "a fox", "--size", "256x256", "--steps", "1", "--out", str(tmp_path)]

    shown = simulated.cli(*words, "--show")

    assert shown.returncode == 0, shown.stderr
    assert len(shown.stderr.splitlines()) - len(simulated.cli(*words).stderr.splitlines()) >= 10
    assert shown.stdout.splitlines()[0].startswith(str(tmp_path))
