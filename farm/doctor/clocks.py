"""Clocks: signatures of webhooks and of S3 are refused where they are too far apart."""

from __future__ import annotations

from farm.doctor.finding import Finding, good, note, wrong

#: Seconds apart that are worth knowing, and that are too many. Webhooks are refused after 300, S3's calls after 900.
_APART = (1.0, 30.0)


def clock_finding(whose: str, apart: float, *, blur: float) -> Finding:
    """`apart`: by how many seconds `whose` is ahead of this machine's clock, known to `blur` seconds."""
    certain = max(0.0, abs(apart) - blur)
    worth_knowing, too_many = _APART
    text = f"{whose} is {abs(apart):.1f} s {'ahead of' if apart > 0 else 'behind'} this machine's"
    remedy = "sudo timedatectl set-ntp true, here and there: webhooks and calls to S3 are signed with the time"
    if certain > too_many:
        return wrong("clock", text, remedy)
    if certain > worth_knowing:
        return note("clock", text, remedy)
    return good("clock", f"{whose} agrees with this machine's")
