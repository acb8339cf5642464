"""Search over pages of the API: jobs and deliveries, newest first, by what the commands' options say."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Annotated, Any

import typer

from farm import clock
from farm.cli.client import Client
from farm.printable import say

#: Items of a page: the most that the API gives.
PAGE = 100
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}

Item = dict[str, Any]
Since = Annotated[
    str | None,
    typer.Option(metavar="TIME", help="Only what was created since: 30m, 12h, 7d, or a time such as 2026-01-31T18:00."),
]


def moment(text: str) -> datetime:
    """Return the time that `text` means: so long ago, or a time in ISO 8601, UTC unless it says otherwise.

    Raises BadParameter.
    """
    if ago := re.fullmatch(r"(\d{1,6})([smhd])", text):
        return _before_now(timedelta(**{_UNITS[ago[2]]: int(ago[1])}))
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        allowed = "30m, 12h, 7d, or a time such as 2026-01-31T18:00"
        raise typer.BadParameter(f"{text!r} is not a time; allowed: {allowed}", param_hint="--since") from None
    return parsed if parsed.tzinfo else parsed.replace(tzinfo=UTC)


def _before_now(ago: timedelta) -> datetime:
    try:
        return datetime.fromtimestamp(clock.now_us() / 1e6, UTC) - ago
    except OverflowError:  # before the first year
        return datetime.min.replace(tzinfo=UTC)


def search(
    client: Client, path: str, wanted: Callable[[Item], bool], *, since: str | None, **fields: str
) -> Iterator[Item]:
    """Yield the items of `path` that are wanted and not older than `since`, newest first."""
    oldest = moment(since) if since else None
    for item in _items(client, path, fields):
        if oldest and datetime.fromisoformat(item["created_at"]) < oldest:
            return
        if wanted(item):
            yield item


def newest(found: Iterator[Item], count: int) -> list[Item]:
    """Return up to `count` of what was found."""
    return list(islice(found, count))


def say_if_none(found: Sequence[object]) -> None:
    """Say that nothing was found, on stderr: an empty table might be a mistyped code."""
    if not found:
        say("nothing matches", file=sys.stderr)


def confirm(question: str, found: Sequence[object], *, is_sure: bool) -> None:
    """Ask before what was found is changed, unless `is_sure`. Raises Abort."""
    say_if_none(found)
    if found and not is_sure:
        typer.confirm(question, abort=True, err=True)


def _items(client: Client, path: str, fields: dict[str, str]) -> Iterator[Item]:
    name, before = path.rpartition("/")[2], None
    while True:
        paging = {"limit": PAGE, **({"before": before} if before else {})}
        page = client.get(path, **paging, **fields)
        yield from page[name]
        before = page["before"]
        if before is None:
            return
