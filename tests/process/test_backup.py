"""Backup of a farm under load by the runbook's commands, and restore into another data folder."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.docs_snippets import executed_by, plain_lines
from tests.farms import RunningFarm, clean_environment, image_facts, running_farm, wait_for

#: One job takes 0.3 s, so that some wait when the backup is made.
SLOW = {"FARM_SIMULATED_STEP_MS": "10"}


def test_a_farm_is_backed_up_under_load_and_restored(tmp_path: Path) -> None:
    words = {"DATA": tmp_path / "data", "BACKUP": tmp_path / "backup", "RESTORED": tmp_path / "restored"}
    snippets = executed_by("test_a_farm_is_backed_up_under_load_and_restored")
    back_up, copy_images, restore, put_images = [line for snippet in snippets for line in plain_lines(snippet.code)]
    with running_farm(words["DATA"], **SLOW) as farm, submitting(farm) as submitted:
        wait_for(lambda: len(submitted) >= 12, what="the first jobs")
        farm.wait_for_end(submitted[0])
        before = list(submitted)
        run(back_up, words, "--data-dir", str(words["DATA"]))
        run(copy_images, words)
    run(restore, words)
    run(put_images, words)

    with running_farm(words["RESTORED"], **SLOW) as farm:
        jobs = [farm.wait_for_end(job_id) for job_id in before]
        assert {job["status"] for job in jobs} == {"completed"}
        assert {image_facts(farm.fetch(path_of(job, farm)))[0] for job in jobs} == {(256, 256)}


@contextmanager
def submitting(farm: RunningFarm) -> Iterator[list[str]]:
    """Submit jobs while the block runs, and yield their ids as they come."""
    ids: list[str] = []
    over = threading.Event()

    def submit() -> None:
        while not over.wait(0.05):
            ids.append(farm.submit())

    thread = threading.Thread(target=submit, daemon=True)
    thread.start()
    try:
        yield ids
    finally:
        over.set()
        thread.join()


def run(command: str, words: dict[str, Path], *more: str) -> None:
    """Run a command of the runbook with these paths for its words in capitals."""
    named = [re.sub(r"\b[A-Z]+\b", lambda word: str(words[word[0]]), part) for part in shlex.split(command)]
    program = [sys.executable, "-m", "farm.cli", *named[1:]] if named[0] == "farm" else named
    done = subprocess.run([*program, *more], env=clean_environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def path_of(job: dict[str, object], farm: RunningFarm) -> str:
    """Return the URL of the job's image at the restored farm."""
    images = job["images"]
    assert isinstance(images, list)
    return re.sub(r"^https?://[^/]+", farm.url, str(images[0]["url"]))
