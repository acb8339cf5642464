"""The report of usage: an answer of `/farm/v1`, and the same as CSV. Pure."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import TypedDict

from farm.dialects.answers.native import UsageFigures, UsageRow

#: Columns of the CSV, in order.
COLUMNS = ("day", "caller", "model", "images", "megapixel_steps", "device_seconds", "cost")


class Counted(TypedDict):
    """Totals of completed jobs."""

    images: int
    megapixel_steps: float
    device_seconds: float


def figures(counted: Counted, price_per_image: float) -> UsageFigures:
    """Return what was counted, rounded, with its cost."""
    return {
        "images": counted["images"],
        "megapixel_steps": round(counted["megapixel_steps"], 3),
        "device_seconds": round(counted["device_seconds"], 3),
        "cost": round(counted["images"] * price_per_image, 6),
    }


def total(rows: Sequence[UsageRow], price_per_image: float) -> UsageFigures:
    """Return the sum of all rows."""
    return figures(
        {
            "images": sum(row["images"] for row in rows),
            "megapixel_steps": sum(row["megapixel_steps"] for row in rows),
            "device_seconds": sum(row["device_seconds"] for row in rows),
        },
        price_per_image,
    )


def csv_text(rows: Sequence[UsageRow]) -> str:
    """Return the rows as CSV with a header, as RFC 4180 has it."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()
