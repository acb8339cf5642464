"""Prompts that callers want enhanced before they submit: a list of questions, and an answer to each."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import redis

from farm import clock
from farm.domain.errors import ClientGone, EnhancerUnavailable, RateLimited
from farm.domain.limits import USUAL, Limits
from farm.jobstore import redis_keys
from farm.jobstore.connection import translated
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.memory_guard import MemoryGuard
from farm.jobstore.scripts import Scripts

#: Enhancements of a caller a minute; each counts as a submit, too.
MAX_PER_MINUTE = 60
#: How long a caller waits, in seconds: longer than a language model may take for one prompt.
ANSWER_SECONDS = 40.0
#: How long one look for an answer lasts, in seconds: less than a connection waits.
_LOOK_SECONDS = 0.5
#: How long an answer is kept for a caller that does not fetch it, in seconds.
_KEPT_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Question:
    """A prompt for a model, to be enhanced."""

    id: str
    model: str
    prompt: str


@dataclass(frozen=True, slots=True)
class Enhanced:
    """The prompt as it is enhanced, or unchanged with warnings that say why."""

    prompt: str
    warnings: list[str]


class Enhancements:
    """One client's view of the prompts to be enhanced. Thread-safe."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard, *, limits: Limits = USUAL) -> None:
        """`limits` are those of callers that have none of their own."""
        self._redis = client
        self._limits = limits
        self._scripts = Scripts(client, guard)
        self._memory = MemoryGuard(client)

    def ask(
        self,
        prompt: str,
        model: str,
        *,
        caller: str,
        limits: Limits = USUAL,
        has_disconnected: Callable[[], bool] = lambda: False,
    ) -> Enhanced:
        """Return the prompt enhanced by whichever process does so first.

        It counts as a submit of the caller, whose `limits` are these. Raises RateLimited, StoreFull, ClientGone, and
        EnhancerUnavailable if there is no answer in time.
        """
        question = Question(uuid.uuid4().hex, model, prompt)
        text = json.dumps(asdict(question))
        with translated():
            self._memory.refuse_when_full()
            rate = limits.or_else(self._limits).rate or 0
            wait_us = self._scripts.run("enqueue_enhancement", text, caller, MAX_PER_MINUTE, rate)
            if wait_us:
                raise _too_fast(wait_us / 1e6)
            try:
                return self._answer(question.id, has_disconnected)
            except (ClientGone, EnhancerUnavailable):
                self._redis.lrem(redis_keys.ENHANCEMENTS, 1, text)
                raise

    def take(self) -> Question | None:
        """Return the next question, which is this process's to answer."""
        with translated():
            text: Any = self._redis.lpop(redis_keys.ENHANCEMENTS)
        return Question(**json.loads(text)) if text else None

    def put_back(self, question: Question) -> None:
        """Leave a question to another process, as the next one."""
        with translated():
            self._redis.lpush(redis_keys.ENHANCEMENTS, json.dumps(asdict(question)))

    def answer(self, question: Question, enhanced: Enhanced) -> None:
        """Answer a question."""
        key = redis_keys.enhanced(question.id)
        with translated():
            self._redis.rpush(key, json.dumps(asdict(enhanced)))
            self._redis.expire(key, _KEPT_SECONDS)

    def _answer(self, question_id: str, has_disconnected: Callable[[], bool]) -> Enhanced:
        until = clock.monotonic() + ANSWER_SECONDS
        while clock.monotonic() < until:
            found: Any = self._redis.brpop([redis_keys.enhanced(question_id)], timeout=_LOOK_SECONDS)
            if found:
                return Enhanced(**json.loads(found[1]))
            if has_disconnected():
                raise ClientGone
        raise EnhancerUnavailable


def _too_fast(seconds: float) -> RateLimited:
    message = f"You may request {MAX_PER_MINUTE} enhancements a minute, which count as submits, too; try again later."
    return RateLimited(message, seconds=seconds)
