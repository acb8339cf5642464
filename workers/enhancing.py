"""Answers callers that want a prompt enhanced before they submit it, in the background worker."""

from __future__ import annotations

from farm.jobstore.enhancements import Enhanced, Enhancements, Question
from workers.enhancer import Enhancer, Interrupted, rewritten


class EnhancementWorker:
    """Answers questions, one after the other: the enhancer does one at a time."""

    def __init__(self, enhancements: Enhancements, enhancer: Enhancer) -> None:
        self._enhancements = enhancements
        self._enhancer = enhancer

    def work(self) -> None:
        """Answer until no question waits."""
        while question := self._enhancements.take():
            self._answer(question)

    def _answer(self, question: Question) -> None:
        try:
            prompt, warnings = rewritten(question.prompt, question.model, self._enhancer)
        except Interrupted:
            self._enhancements.put_back(question)
            raise
        self._enhancements.answer(question, Enhanced(prompt, list(warnings)))
