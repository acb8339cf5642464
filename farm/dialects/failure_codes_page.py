"""`docs/failure-codes.md`: every error code with its words in each dialect, generated from the one table of them."""

from __future__ import annotations

import sys
from pathlib import Path

from farm.domain.error_codes import FAILURES, Failure

_HEAD = """\
# Failure codes

Every code with which a call is refused or a job fails, and what each dialect says instead. `make docs` generates this
page from `farm/domain/error_codes.py`.

A refused call has a status, and may have seconds after which the same call can succeed (`Retry-After`). A job that
fails keeps the code; it is in the answer of a poll, in events and in webhooks.
"""


def page() -> str:
    """Return docs/failure-codes.md."""
    calls = [_call_row(code, row) for code, row in FAILURES.items() if row.call]
    jobs = [_job_row(code, row) for code, row in FAILURES.items() if row.job]
    return "\n".join(
        [
            _HEAD,
            "## Refused calls\n",
            "| code | status | again after | fal's type | meaning |",
            "|---|---|---|---|---|",
            *calls,
            "\n## Failed jobs\n",
            "| code | fal's type | WaveSpeed's number | meaning |",
            "|---|---|---|---|",
            *jobs,
            "",
        ]
    )


def _call_row(code: str, row: Failure) -> str:
    assert row.call is not None
    seconds = f"{row.call.retry_after} s" if row.call.retry_after is not None else ""
    fal = f"`{row.call.fal}`" if row.call.fal else ""
    return f"| `{code}` | {row.call.status} | {row.call.again or seconds} | {fal} | {row.message} |"


def _job_row(code: str, row: Failure) -> str:
    assert row.job is not None
    return f"| `{code}` | `{row.job.fal}` | {row.job.wavespeed} | {row.message} |"


if __name__ == "__main__":
    Path(sys.argv[1]).write_text(page(), "utf-8")
