"""Follows jobs with a progress bar, and brings their pictures home."""

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
from farm.cli.client import Client
from farm.domain.errors import FarmError

_POLL_SECONDS = 0.15
#: Longest part of a prompt in a file's name, in characters.
_SLUG = 40
_ENDED = ("completed", "failed")


@dataclass(frozen=True, slots=True)
class Followed:
    """A job that has ended, as its caller sees it, and where its pictures are now."""

    view: dict[str, Any]
    files: list[Path]


class UnusableFolder(FarmError):
    """A folder that was named for pictures cannot be written to."""


class Gallery:
    """Waits for jobs of one farm and downloads what they rendered into `folder`. Raises UnusableFolder."""

    def __init__(self, client: Client, folder: Path, *, console: Console, shows_progress: bool) -> None:
        self._client = client
        self._folder = folder
        self._console = console
        self._shows_progress = shows_progress
        with _writing(folder):
            folder.mkdir(parents=True, exist_ok=True)

    def follow(self, job_ids: list[str]) -> list[Followed]:
        """Every job's end, in the order given."""
        views: dict[str, dict[str, Any]] = {}
        with self._bars() as bars:
            while True:
                for job_id in job_ids:
                    if views.get(job_id, {}).get("status") not in _ENDED:
                        views[job_id] = self._client.watch(f"/jobs/{job_id}")
                bars.show(list(views.values()))
                if all(view["status"] in _ENDED for view in views.values()):
                    break
                clock.pause(_POLL_SECONDS)
        return [Followed(views[job_id], self._bring_home(views[job_id])) for job_id in job_ids]

    def _bring_home(self, view: dict[str, Any]) -> list[Path]:
        return [self._save(view, number) for number in range(len(view["images"]))]

    def _save(self, view: dict[str, Any], number: int) -> Path:
        image = view["images"][number]
        extension = image["content_type"].removeprefix("image/")
        name = _slug(view["original_prompt"] or view["prompt"])
        path = self._folder / f"{name}-{(view['seed'] + number) % 2**32}.{extension}"
        content = self._client.download(image["url"])
        with _writing(path):
            path.write_bytes(content)
        return path

    @contextmanager
    def _bars(self) -> Iterator[Bars]:
        progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            console=self._console,
            disable=not self._shows_progress,
        )
        with progress:
            yield Bars(progress)


@contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UnusableFolder(f"--out: {path} cannot be written: {error.strerror}") from error


def _slug(prompt: str) -> str:
    """The prompt's first words, as a file's name."""
    words = textwrap.shorten(" ".join(re.findall(r"[a-z0-9]+", prompt.lower())), _SLUG, placeholder="")
    return words.replace(" ", "-") or "picture"


class Bars:
    """Two bars: steps made and images done, of all the jobs followed."""

    def __init__(self, progress: Progress) -> None:
        self._progress = progress
        self._steps = progress.add_task("steps ", total=None)
        self._images = progress.add_task("images", total=None)

    def show(self, views: list[dict[str, Any]]) -> None:
        made = sum(view["progress"]["step"] for view in views)
        wanted = sum(view["progress"]["steps"] for view in views)
        self._progress.update(self._steps, completed=made, total=wanted)
        images = sum(view["num_images"] for view in views)
        self._progress.update(self._images, completed=sum(len(view["images"]) for view in views), total=images)
