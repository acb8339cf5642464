"""The prompt enhancer: describes in more words what a caller wants to see. No torch here.

Without a language model it is a template: the caller's words stay whole and in front, and what they leave open is
added. With one (FARM_ENHANCER_DIR) a process of its own writes (`workers/pipelines/language.py`); what it does not
manage in time is rendered as it was written.
"""

from __future__ import annotations

import json
import math
import queue
import re
import subprocess
import threading
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Protocol

import structlog
from pydantic import BaseModel, ValidationError

from farm import clock
from farm.concurrency.background_thread import call_in_thread
from farm.domain.catalogue import MAX_PROMPT, Task, named
from farm.domain.errors import FarmError
from farm.domain.request import Request
from farm.process import child
from farm.weights.checkpoints import check_enhancer

#: Longer prompts, in characters, are not enhanced: more would not fit into the 512 tokens of the text encoder.
MAX_LENGTH = 1500
#: Tasks whose prompt is an instruction about the input images.
EDITS = (Task.EDIT, Task.MULTI_EDIT)

#: Time limits of the model for one prompt, and for loading, in seconds.
ANSWER_SECONDS = 30.0
LOAD_SECONDS = 90.0
#: Pause after a failed load, in seconds, so that not every prompt waits for one.
PAUSE_SECONDS = 60.0

#: Aspects that a prompt may leave open: words that show that it does not, and what is added if it does.
_IMAGE_ASPECTS = (
    (r"light\w*|lit|sun\w*|shad(ow|e)\w*|glow\w*|neon|night|dark\w*|dawn|dusk|moon\w*|candle\w*", "soft natural light"),
    (r"close-?up|wide|angle|shot|view\w*|compos\w*|fram\w+|portrait|panorama|macro|aerial", "balanced composition"),
    (r"detail\w*|textur\w*|intricate|sharp\w*|crisp|[48]k|hd|minimal\w*|simple|flat", "fine detail"),
    (
        r"colou?r\w*|monochrome|black|white|grey|gray|red|orange|yellow|green|blue|purple|pink|brown|gold\w*|silver"
        r"|pastel\w*|vibrant|muted|palette|sepia",
        "harmonious colours",
    ),
    (r"background|backdrop|foreground|bokeh|blur\w*|depth|focus\w*", "a clear subject against a calm background"),
)
#: The same for an instruction: what it does not mention stays as it is.
_EDIT_ASPECT = (
    r"keep\w*|preserv\w*|same|unchanged|maintain\w*|leav\w+|everything else",
    "Keep what is not mentioned as it is: subjects, faces, pose and framing.",
)
_MULTI_EDIT_ASPECT = (
    r"combin\w*|blend\w*|match\w*|seamless\w*|consistent\w*|coherent\w*",
    "Bring the images together in one scene, with the same light, scale and perspective throughout.",
)

_log = structlog.get_logger(__name__)


class EnhancerFailed(FarmError):
    """The prompt could not be enhanced."""


class Interrupted(FarmError):
    """The process drains; another process takes over the job."""

    def __init__(self) -> None:
        super().__init__("The process drains; another one goes on with the job.")


class Enhancer(Protocol):
    """Rewrites prompts, depending on nothing but the prompt and the model."""

    def rewrite(self, prompt: str, model: str) -> str:
        """Return the prompt to render instead. Raises EnhancerFailed, and Interrupted once it is closed."""

    def close(self) -> None:
        """Release all resources, and interrupt calls in progress. Any thread may call it."""


def enhanced(request: Request, enhancer: Enhancer) -> Request:
    """Return the request with its prompt rewritten, or unchanged with a note that says why."""
    prompt, notes = rewritten(request.prompt, request.model, enhancer)
    changes = {"prompt": prompt, "original_prompt": request.prompt, "enhance": False, "notes": request.notes + notes}
    return request.model_copy(update=changes)


def rewritten(prompt: str, model: str, enhancer: Enhancer) -> tuple[str, tuple[str, ...]]:
    """Return the prompt rewritten, or unchanged with a note that says why. Raises Interrupted."""
    if len(prompt) > MAX_LENGTH:
        return prompt, ("The prompt was not enhanced: it is long enough already.",)
    try:
        return enhancer.rewrite(prompt, model), ()
    except EnhancerFailed as error:
        _log.warning("prompt not enhanced", error=str(error))
        return prompt, (f"The prompt was not enhanced: {error}",)


class Template:
    """Adds the aspects that the prompt leaves open, without a language model."""

    def rewrite(self, prompt: str, model: str) -> str:
        stem = prompt.rstrip()
        task = named(model).task
        if task in EDITS:
            sentences = _missing_aspects(
                stem, (_EDIT_ASPECT, _MULTI_EDIT_ASPECT) if task is Task.MULTI_EDIT else (_EDIT_ASPECT,)
            )
            return " ".join([_with_full_stop(stem), *sentences]) if sentences else prompt
        additions = ", ".join(_missing_aspects(stem, _IMAGE_ASPECTS))
        if not (additions and stem):
            return prompt
        if stem[-1:] in ".!?…":
            return f"{stem} {additions.capitalize()}."
        return f"{stem.rstrip(',;:')}, {additions}"

    def close(self) -> None:
        pass


class LanguageModel:
    """Asks a language model in a process of its own, which is killed when it hangs or fails, and replaced on demand."""

    def __init__(
        self, folder: Path, *, answer_seconds: float = ANSWER_SECONDS, load_seconds: float = LOAD_SECONDS
    ) -> None:
        self._program = child.module("workers.pipelines.language", str(folder))
        self._answer_seconds = answer_seconds
        self._load_seconds = load_seconds
        self._process: _Process | None = None
        self._lock = threading.Lock()
        self._closing = threading.Event()
        self._load_after = -math.inf

    def rewrite(self, prompt: str, model: str) -> str:
        if not self._lock.acquire(timeout=self._load_seconds + self._answer_seconds):
            raise EnhancerFailed("The enhancer has too much to do.")
        try:
            text = self._ask({"prompt": prompt, "edits": named(model).task in EDITS}).strip()
        except EnhancerFailed as error:
            self._end()
            if self._closing.is_set():
                raise Interrupted from error
            raise
        finally:
            self._lock.release()
        if not 0 < len(text) <= MAX_PROMPT:
            raise EnhancerFailed(f"The enhancer answered with {len(text)} characters; allowed: 1 to {MAX_PROMPT}.")
        return text

    def close(self) -> None:
        self._closing.set()
        self._end()

    def _ask(self, question: dict[str, object]) -> str:
        process = self._process or self._load()
        process.tell(question)
        return process.answer(self._answer_seconds)

    def _load(self) -> _Process:
        began = clock.monotonic()
        if began < self._load_after:
            raise EnhancerFailed("The enhancer's model could not be loaded a moment ago.")
        self._process = process = _Process(self._program)
        # Checked once `close` knows the process: one of both sees the other.
        if self._closing.is_set():
            raise EnhancerFailed("The enhancer is closed.")
        self._load_after = began + self._load_seconds + PAUSE_SECONDS
        process.answer(self._load_seconds)
        self._load_after = -math.inf
        _log.info("enhancer is loaded", seconds=round(clock.monotonic() - began, 2))
        return process

    def _end(self) -> None:
        process, self._process = self._process, None
        if process is not None:
            process.kill()


class _Answer(BaseModel):
    text: str = ""


class _Process:
    """A program that answers each line of JSON with a line of JSON. Its first line says that it is ready."""

    def __init__(self, program: list[str]) -> None:
        self._lines: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._started: Future[subprocess.Popen[bytes]] = Future()
        # This thread stays: to the kernel, it is the parent with which the child dies.
        call_in_thread("enhancer", partial(self._run, program))
        self._process = self._started.result()

    def tell(self, question: dict[str, object]) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError, ValueError):  # it is gone: there will be no answer
            self._process.stdin.write(json.dumps(question).encode() + b"\n")
            self._process.stdin.flush()

    def answer(self, seconds: float) -> str:
        """Return the text of the next line. Raises EnhancerFailed if there is none in time."""
        try:
            return _Answer.model_validate_json(self._lines.get(timeout=seconds)).text
        except queue.Empty:
            raise EnhancerFailed("The enhancer took too long.") from None
        except ValidationError as error:
            raise EnhancerFailed("The enhancer's model could not be used.") from error

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def _run(self, program: list[str]) -> None:
        try:
            process = subprocess.Popen(
                child.command(*program), stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
            )
        except OSError as error:
            self._started.set_exception(EnhancerFailed(f"The enhancer could not be started: {error.strerror}."))
            return
        self._started.set_result(process)
        with suppress(BrokenPipeError), process:
            assert process.stdout is not None
            for line in process.stdout:
                self._lines.put(line)
        self._lines.put(b"")


def enhancer_for(folder: Path | None) -> Enhancer:
    """Return the template, or the language model in `folder`. Raises ConfigurationError if `folder` has none."""
    if folder is None:
        return Template()
    check_enhancer(folder)
    return LanguageModel(folder)


def _missing_aspects(text: str, aspects: Sequence[tuple[str, str]]) -> list[str]:
    """Return what to add for the aspects that `text` leaves open."""
    return [addition for words, addition in aspects if not re.search(rf"\b({words})\b", text, re.IGNORECASE)]


def _with_full_stop(sentence: str) -> str:
    return sentence if sentence[-1:] in ".!?…" else f"{sentence}."
