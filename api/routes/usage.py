"""The route of the usage of callers, for invoices."""

from __future__ import annotations

import re
from datetime import date, timedelta

import flask

from api.auth import Authenticator
from api.http import query
from farm.auth.api_keys import Caller
from farm.dialects import usage_report
from farm.dialects.answers.native import FarmUsage, UsageRow
from farm.domain.errors import Forbidden, InvalidRequest, Problem
from farm.jobstore.daily_usage import DailyUsage, DayUsage

CSV = "text/csv"
FORMATS = ("json", "csv")
#: Days of a report without `since`, and the most that one may have.
DEFAULT_DAYS = 30
MAX_DAYS = 400
_DAY = re.compile(r"\d{4}-\d{2}-\d{2}")


def routes(usage: DailyUsage, *, authenticator: Authenticator, price_per_image: float) -> flask.Blueprint:
    blueprint = flask.Blueprint("usage", __name__, url_prefix="/farm/v1")

    @blueprint.get("/usage")
    def report() -> FarmUsage | flask.Response:
        whose = _whose(authenticator.caller())
        query.refuse_others("since", "until", "caller", "format")
        wants_csv = _wants_csv()
        since, until = _days(usage.today())
        rows = [_row(day, price_per_image) for day in usage.between(since, until, caller=whose)]
        if wants_csv:
            return _as_file(usage_report.csv_text(rows))
        return {
            "since": since.isoformat(),
            "until": until.isoformat(),
            "price_per_image": price_per_image,
            "usage": rows,
            "total": usage_report.total(rows, price_per_image),
        }

    return blueprint


def _whose(caller: Caller) -> str | None:
    """Return the caller whose usage is wanted; None: of all, which an admin gets. Raises Forbidden."""
    wanted = flask.request.args.get("caller")
    if caller.is_admin:
        return wanted
    if wanted not in (None, caller.id):
        raise Forbidden("Only an admin key may see the usage of other callers.")
    return caller.id


def _wants_csv() -> bool:
    """Return True if `format`, or else the Accept header, asks for CSV. Raises InvalidRequest."""
    wanted = flask.request.args.get("format")
    if wanted is None:
        return flask.request.accept_mimetypes.best_match(("application/json", CSV)) == CSV
    if wanted not in FORMATS:
        raise InvalidRequest([Problem("format", f"allowed: {', '.join(FORMATS)}", "enum", wanted)])
    return wanted == "csv"


def _days(today: date) -> tuple[date, date]:
    """Return the first and the last day of the report. Raises InvalidRequest."""
    until = _day("until", today)
    since = _day("since", max(date.min + timedelta(DEFAULT_DAYS), until) - timedelta(DEFAULT_DAYS))
    if not 0 <= (until - since).days < MAX_DAYS:
        message = f"allowed: a day not after `until`, and less than {MAX_DAYS} days before it"
        raise InvalidRequest([Problem("since", message, "date_range", since.isoformat())])
    return since, until


def _day(name: str, default: date) -> date:
    text = flask.request.args.get(name)
    if text is None:
        return default
    try:
        if _DAY.fullmatch(text):
            return min(date.fromisoformat(text), date(9999, 1, 1))
    except ValueError:
        pass
    raise InvalidRequest([Problem(name, "allowed: a day as YYYY-MM-DD", "date_parsing", text)])


def _row(used: DayUsage, price_per_image: float) -> UsageRow:
    return {
        "day": used.day.isoformat(),
        "caller": used.caller,
        "model": used.model,
        **usage_report.figures(
            {
                "images": used.images,
                "megapixel_steps": used.megapixel_steps,
                "device_seconds": used.device_seconds,
            },
            price_per_image,
        ),
    }


def _as_file(text: str) -> flask.Response:
    headers = {"Content-Disposition": "attachment; filename=usage.csv", "Vary": "Accept"}
    return flask.Response(text, content_type=f"{CSV}; charset=utf-8", headers=headers)
