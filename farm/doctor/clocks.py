"""Check clocks: receivers and S3 reject signatures if the clocks differ too much."""

from __future__ import annotations

from farm.doctor.finding import Finding, good, note, wrong

#: Differences in seconds that are a note and an error. Receivers reject webhooks after 300 s, S3 calls after 900.
_APART = (1.0, 30.0)


def clock_finding(whose: str, apart: float, *, blur: float) -> Finding:
    """Judge a clock that is `apart` seconds ahead of this machine's, measured to within `blur` seconds."""
    certain = max(0.0, abs(apart) - blur)
    worth_knowing, too_many = _APART
    text = f"{whose} is {abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    remedy = "sudo timedatectl set-ntp true, on both machines: signatures of webhooks and S3 calls contain the time"
    if certain > too_many:
        return wrong("clock", text, remedy)
    if certain > worth_knowing:
        return note("clock", text, remedy)
    return good("clock", f"{whose} agrees with this machine's")
