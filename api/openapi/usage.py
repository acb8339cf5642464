"""Operation of `/farm/v1/usage`."""

from __future__ import annotations

from datetime import date
from typing import Literal

from api.openapi.native import PREFIX, errors
from api.openapi.operation import GUARDED, Operation, Parameter, Response, Section
from api.routes.usage import CSV, DEFAULT_DAYS, MAX_DAYS
from farm.dialects.answers import native as answers

SECTION = Section(
    name="Usage",
    description="What each caller has had rendered, by day and model.",
    operations=(
        Operation(
            "get",
            f"{PREFIX}/usage",
            "getUsage",
            "Get your usage by day and model; with an admin key that of every caller",
            parameters=(
                Parameter("since", f"First day (UTC); {DEFAULT_DAYS} days before `until` by default.", date),
                Parameter("until", f"Last day (UTC), today by default; {MAX_DAYS} days are the most.", date),
                Parameter("caller", "Only this caller's usage; other callers' need an admin key."),
                Parameter("format", "Of the answer; else the Accept header decides.", Literal["json", "csv"]),
            ),
            responses={
                200: Response("The usage.", answers.FarmUsage, f"application/json, {CSV}"),
                **errors(*GUARDED, 422),
            },
        ),
    ),
)
