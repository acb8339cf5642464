"""The Celery tasks: thin, they carry no truth and no logic."""

from __future__ import annotations

from celery import Celery

from farm.celery import RENDER_TASK
from workers.render import Renderer


def register(app: Celery, renderer: Renderer) -> None:
    """Tie the wake-up to the renderer of this process."""
    app.task(name=RENDER_TASK)(renderer.work)
