"""Wait for jobs with a progress bar, and download their images."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from farm import clock
from farm.atomic_file import write_atomically
from farm.cli.client import Client
from farm.domain.errors import FarmError
from farm.domain.job import TERMINAL

_POLL_SECONDS = 0.15
#: Most characters of the prompt in a file's name.
_MAX_SLUG = 40


@dataclass(frozen=True, slots=True)
class FinishedJob:
    """A job in its terminal state, as the API shows it, and the files that its images were saved to."""

    view: dict[str, Any]
    files: list[Path]


class UnusableFolder(FarmError):
    """The output folder cannot be written to."""


class Downloader:
    """Waits for jobs and downloads their images into `folder`. Raises UnusableFolder."""

    def __init__(self, client: Client, folder: Path, *, console: Console, shows_progress: bool) -> None:
        self._client = client
        self._folder = folder
        self._console = console
        self._shows_progress = shows_progress
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def finish(self, job_ids: list[str]) -> list[FinishedJob]:
        """Wait until every job has ended, and return them in the order given."""
        views: dict[str, dict[str, Any]] = {}
        with self._bars() as bars:
            while True:
                for job_id in job_ids:
                    if views.get(job_id, {}).get("status") not in TERMINAL:
                        views[job_id] = self._client.poll(f"/jobs/{job_id}")
                bars.show(list(views.values()))
                if all(view["status"] in TERMINAL for view in views.values()):
                    break
                clock.pause(_POLL_SECONDS)
        return [FinishedJob(views[job_id], self._download(views[job_id])) for job_id in job_ids]

    def _download(self, view: dict[str, Any]) -> list[Path]:
        return [self._save(view, number) for number in range(len(view["images"]))]

    def _save(self, view: dict[str, Any], number: int) -> Path:
        image = view["images"][number]
        extension = re.sub("[^a-z0-9]", "", image["content_type"].removeprefix("image/"))
        name = slug(view["original_prompt"] or view["prompt"])
        path = self._folder / f"{name}-{(view['seed'] + number) % 2**32}.{extension}"
        content = self._client.download(image["url"])
        with _writing(path):
            write_atomically(path, content)
        return path

    @contextmanager
    def _bars(self) -> Iterator[ProgressBars]:
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._shows_progress,
        )
        with progress:
            yield ProgressBars(progress)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnusableFolder(f"--out: cannot write {path}: {error.strerror}.") from error


def slug(prompt: str) -> str:
    """Return the prompt's first words as a file name."""
    words = textwrap.shorten(" ".join(re.findall(r"[a-z0-9]+", prompt.lower())), _MAX_SLUG, placeholder="")
    return words.replace(" ", "-") or "image"


class ProgressBars:
    """Two progress bars over all jobs: denoising steps and images."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps = progress.add_task("steps ", total=None)
        self._images = progress.add_task("images", total=None)

    def show(self, views: list[dict[str, Any]]) -> None:
        done = sum(view["progress"]["step"] for view in views)
        total = sum(view["progress"]["steps"] for view in views)
        self._progress.update(self._steps, completed=done, total=total)
        images = sum(view["num_images"] for view in views)
        self._progress.update(self._images, completed=sum(len(view["images"]) for view in views), total=images)
