"""`farm usage`: what callers have had rendered."""

from __future__ import annotations

from typing import Annotated, Any

import typer

from farm.cli.client import Client
from farm.cli.exclusive_options import refuse_beside
from farm.cli.search import moment
from farm.cli.terminal import say_json, show_table
from farm.dialects.usage_report import COLUMNS, csv_text
from farm.printable import say
from farm.settings import load


def usage(
    context: typer.Context,
    since: Annotated[
        str | None, typer.Option(metavar="TIME", help="First day: 7d, 90d, or a day such as 2026-01-31. Default: 30d.")
    ] = None,
    caller: Annotated[str | None, typer.Option(help="Only this caller's usage.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print the report as JSON.")] = False,
    as_csv: Annotated[bool, typer.Option("--csv", help="Print the report as CSV.")] = False,
) -> None:
    """Show images, device seconds and cost by day and model.

    With an admin key those of every caller; the price is FARM_PRICE_PER_IMAGE.
    """
    if as_json:
        refuse_beside(context, "--json", ["as_csv"])
    wanted = {"caller": caller, "since": since and moment(since).date().isoformat()}
    report = Client(load()).get("/usage", **{name: value for name, value in wanted.items() if value})
    if as_json:
        say_json(report)
    elif as_csv:
        for line in csv_text(report["usage"]).splitlines():
            say(line)
    else:
        show_table(COLUMNS, [*map(_row, report["usage"]), _row({"day": "total", **report["total"]})])


def _row(figures: dict[str, Any]) -> list[object]:
    return [figures.get(column, "") for column in COLUMNS]
