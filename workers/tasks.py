"""The Celery tasks: thin, they carry no truth and no logic."""

from __future__ import annotations

from collections.abc import Callable

from celery import Celery


def register(app: Celery, task: str, work: Callable[[], None]) -> None:
    """Tie a wake-up to the work that this process does."""
    app.task(name=task)(work)
