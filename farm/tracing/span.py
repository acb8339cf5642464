"""A span: one piece of the work on a job, as a trace has it."""

from __future__ import annotations

from types import TracebackType
from typing import Literal, Self

Kind = Literal["internal", "server", "client"]
Fact = str | int | float | bool


class Span:
    """A span that is not recorded. `traceparent` is that of its parent: others become children of that one."""

    __slots__ = ("traceparent",)

    def __init__(self, traceparent: str) -> None:
        self.traceparent = traceparent

    def add(self, **facts: Fact) -> None:
        """Add facts to the span. None of them may hold a prompt, a key or an image's URL."""

    def record_stage(self, name: str, seconds: float) -> None:
        """Record a child that took so long, and ends now."""

    def fail(self, reason: str) -> None:
        """Mark the span as an error."""

    def end(self) -> None:
        """End the span; a second time nothing happens."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, error: BaseException | None, _traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self.fail(type(error).__name__)
        self.end()
