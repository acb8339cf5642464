"""`farm demo`: start a farm in a temporary data folder, render four prompts, and keep the images."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import Annotated, NoReturn

import typer
from rich.console import Console

from farm.cli.client import Client
from farm.cli.download import Downloader, FinishedJob
from farm.cli.image_page import PageImage, write_image_page
from farm.cli.terminal import show_table, timings_text
from farm.client.safety_check import check_fields
from farm.domain.errors import FarmError
from farm.printable import say
from farm.process import child
from farm.process.placement import places
from farm.process.signals import stop_signals
from farm.settings import load

#: Prompts in the miniature's language, each with the size of its image.
PROMPTS = (
    ("three yellow stars on a meadow at night", "landscape_4_3"),
    ("a large red heart in the middle, in the snow", "portrait_4_3"),
    ("a striped blue circle, on a yellow background", "square"),
    ("two orange triangles on the left, by the sea", "landscape_16_9"),
)


_UP = child.module("farm.cli", "up")


class DemoFailed(FarmError):
    """The demo failed."""


def demo(out: Annotated[Path, typer.Option(help="Folder to save the images in.")] = Path("out")) -> None:
    """Render four prompts on a temporary farm, then stop it."""
    for number in stop_signals():
        signal.signal(number, _stop)
    with tempfile.TemporaryDirectory(prefix="srpo-farm-demo-") as data_dir, running_farm(Path(data_dir)) as url:
        client = Client(load().model_copy(update={"url": url}))
        jobs = [submit(client, seed, *prompt) for seed, prompt in enumerate(PROMPTS, start=1)]
        downloader = Downloader(client, out, console=Console(stderr=True), shows_progress=True)
        finished = downloader.finish(jobs)
    show_timings(finished)
    failed = [job.view["error"] for job in finished if job.view["status"] != "completed"]
    if failed:
        raise DemoFailed(failed[0])
    page = write_image_page(out, "srpo-farm demo", (shown for job in finished for shown in _images(job)))
    say("")
    say(f"The images side by side: {page.resolve().as_uri()}")
    say("Next: `make up`, then open http://127.0.0.1:8000 and render your own.")


def show_timings(finished: Sequence[FinishedJob]) -> None:
    """Print a table: each image with its size and the timings of its job."""
    rows = [
        {"image": str(path), "size": f"{image['width']}x{image['height']}"} | timings_text(job.view["timings"])
        for job in finished
        for path, image in zip(job.files, job.view["images"], strict=True)
    ]
    columns = list(dict.fromkeys(["image", "size", *(column for row in rows for column in row)]))
    show_table(columns, ([row.get(column) for column in columns] for row in rows))


def _stop(number: int, _frame: FrameType | None) -> NoReturn:
    """End the demo, once: its farm is drained, and its folder removed."""
    for one in stop_signals():
        signal.signal(one, signal.SIG_IGN)
    sys.exit(128 + number)


def _images(job: FinishedJob) -> list[PageImage]:
    facts = (f"seed {job.view['seed']}", f"{job.view['timings']['inference']:.2f} s")
    return [PageImage(file, job.view["prompt"], facts) for file in job.files]


def submit(client: Client, seed: int, prompt: str, size: str) -> str:
    """Submit a prompt of the demo, and return the id of its job. Raises CallFailed."""
    fields = {"model": "srpo", "prompt": prompt, "image_size": size, "seed": seed}
    job_id: str = client.post("/jobs", fields | check_fields(client, "srpo"))["id"]
    return job_id


@contextmanager
def running_farm(data_dir: Path) -> Iterator[str]:
    """Run a farm on a free port and yield its URL. Its log is shown if it does not start."""
    log = data_dir / "log"
    workers = min(len(PROMPTS), len(places(load(), None)))
    options = ["--port", str(free_port()), "--data-dir", str(data_dir), "--workers", str(workers)]
    with log.open("wb") as stderr:
        farm = subprocess.Popen(child.command(*_UP, *options), stdout=subprocess.PIPE, stderr=stderr, text=True)
    try:
        assert farm.stdout is not None
        line = farm.stdout.readline()
        if not line.startswith("farm ready: "):
            for text in log.read_text("utf-8")[-2000:].splitlines():
                say(text, file=sys.stderr)
            raise DemoFailed("The farm did not start. The end of its log is above.")
        yield line.removeprefix("farm ready: ").strip()
    finally:
        farm.send_signal(signal.SIGTERM)
        farm.wait()


def free_port() -> int:
    """Return a port of 127.0.0.1 that no program listens on."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
