"""The page of one job that `farm jobs show` prints."""

from __future__ import annotations

from typing import Any

from farm.cli.terminal import show_table, timings_text
from farm.cli.webhooks import outcome_text
from farm.printable import say

_FACTS = ("id", "model", "status", "code", "error", "priority", "prompt", "created_at", "started_at", "finished_at")
_MORE = ("retry_of", "retried_as")
_ORIGIN = ("caller", "key_id", "request_id", "dialect", "attempts")


def show_job(job: dict[str, Any], history: dict[str, Any]) -> None:
    """Print a job and its history."""
    for name, value in _facts(job, history):
        if value not in (None, ""):
            say(f"{name:<12} {value}")
    _show_titled("runs", ("worker", "machine", "started", "ended", "steps", "reason"), map(_run, history["runs"]))
    _show_titled("deliveries", ("id", "status", "attempt", "at", "took", "outcome"), _attempts(history["deliveries"]))


def _facts(job: dict[str, Any], history: dict[str, Any]) -> list[tuple[str, Any]]:
    progress, timings = job["progress"], timings_text(job["timings"])
    return [
        *((name, job[name]) for name in _FACTS),
        ("steps", f"{progress['step']}/{progress['steps']}"),
        ("timings", ", ".join(f"{name} {text}" for name, text in timings.items())),
        *((name, job[name]) for name in _MORE),
        *((name, history[name]) for name in _ORIGIN),
        *(("image", image["url"]) for image in job["images"]),
    ]


def _run(run: dict[str, Any]) -> tuple[object, ...]:
    return run["worker"], run["host"], run["started_at"], run["ended_at"], run["step"], run["reason"] or "running"


def _attempts(deliveries: list[dict[str, Any]]) -> list[tuple[object, ...]]:
    """Return a row for each attempt, and one for each delivery without any."""
    rows: list[tuple[object, ...]] = []
    for delivery in deliveries:
        known = (delivery["id"], delivery["status"])
        rows += [
            (*known, number, attempt["at"], f"{attempt['seconds']:.3f} s", outcome_text(attempt))
            for number, attempt in enumerate(delivery["attempts"], start=1)
        ] or [(*known, "", delivery["next_try_at"], "", "")]
    return rows


def _show_titled(title: str, columns: tuple[str, ...], rows: Any) -> None:
    found = list(rows)
    if found:
        say(f"\n{title}")
        show_table(columns, found)
