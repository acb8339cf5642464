"""Check clocks: receivers and S3 reject signatures if the clocks differ too much."""

from __future__ import annotations

from farm.doctor.finding import Finding, good, note, wrong
from farm.jobstore.clock_skew import MAX_SKEW_SECONDS, REMEDY, ClockSkew

#: A smaller difference is not worth a note, in seconds.
_WORTH_KNOWING_SECONDS = 1.0


def clock_finding(whose: str, skew: ClockSkew) -> Finding:
    """Judge the difference of a clock from this machine's."""
    text = f"{whose} is {skew}"
    if skew.certain_seconds > MAX_SKEW_SECONDS:
        return wrong("clock", text, REMEDY)
    if skew.certain_seconds > _WORTH_KNOWING_SECONDS:
        return note("clock", text, REMEDY)
    return good("clock", f"{whose} agrees with this machine's")
