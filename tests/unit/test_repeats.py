"""Equal lines of a log: one, then their number."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest
import structlog

from farm.telemetry.repeats import Repeats


@pytest.fixture
def repeats() -> Iterator[Repeats]:
    """Yield a processor whose thread ends with the test: half a minute later it would write amid another one."""
    with closing(Repeats()) as repeats:
        yield repeats


@pytest.fixture
def lines(repeats: Repeats) -> Iterator[list[structlog.typing.EventDict]]:
    """Yield the lines that are written; they have passed `Repeats`."""
    written: list[structlog.typing.EventDict] = []

    def write(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
        written.append(dict(event))
        raise structlog.DropEvent

    before = structlog.get_config()
    structlog.configure(
        processors=[structlog.stdlib.add_log_level, _name, repeats, write],
        wrapper_class=structlog.make_filtering_bound_logger(0),  # other tests leave out some levels
        cache_logger_on_first_use=False,
    )
    yield written
    structlog.configure(**before)


def _name(_logger: object, _method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    event["logger"] = "farm"
    return event


def events(lines: list[structlog.typing.EventDict]) -> list[tuple[str, int | None]]:
    return [(line["event"], line.get("repeated")) for line in lines]


def test_repeats_of_an_outage_are_counted(lines: list[structlog.typing.EventDict], repeats: Repeats) -> None:
    log = structlog.get_logger("farm")
    for number in range(24):
        log.warning("lease not renewed", error=f"timeout {number}")
    log.error("rendering failed")
    assert events(lines) == [("lease not renewed", None), ("rendering failed", None)]

    repeats.flush()
    assert events(lines)[2:] == [("lease not renewed", 23)]
    assert lines[-1]["error"] == "timeout 23"

    log.warning("lease not renewed", error="timeout")
    for _ in range(3):
        repeats.flush()
    assert events(lines)[3:] == [("lease not renewed", 1)]

    log.warning("lease not renewed", error="timeout")
    assert events(lines)[4:] == [("lease not renewed", None)], "the next outage"


def test_lines_about_two_jobs_are_two_lines(lines: list[structlog.typing.EventDict]) -> None:
    log = structlog.get_logger("farm")
    for job in ("a", "b", "a"):
        log.warning("image not stored yet", job=job)

    assert [line["job"] for line in lines] == ["a", "b"]


def test_the_seconds_in_a_librarys_line_do_not_make_it_another(lines: list[structlog.typing.EventDict]) -> None:
    log = structlog.get_logger("farm")
    for host, seconds in (("10.0.0.1", 0.93), ("10.0.0.1", 2.04), ("10.0.0.2", 2.04)):
        log.warning(f"Cannot export to {host}, retrying in {seconds}s.")

    assert [line["event"].split(",")[0] for line in lines] == ["Cannot export to 10.0.0.1", "Cannot export to 10.0.0.2"]


def test_events_of_jobs_are_all_written(lines: list[structlog.typing.EventDict]) -> None:
    log = structlog.get_logger("farm")
    for _ in range(3):
        log.info("job accepted", job="a")

    assert len(lines) == 3


def test_refused_calls_are_counted(lines: list[structlog.typing.EventDict]) -> None:
    log = structlog.get_logger("farm")
    for key in ("k1", "k2", "k1"):
        log.info("call refused", code="rate_limited", route="/farm/v1/jobs", key=key, request_id="x")

    assert [line["key"] for line in lines] == ["k1", "k2"]
