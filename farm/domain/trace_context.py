"""The trace context of a call: the header `traceparent` of the W3C's Trace Context, level 1."""

from __future__ import annotations

import re
from typing import NamedTuple

HEADER = "traceparent"
#: Longest header that is looked at: later versions may append fields.
_MAX_LENGTH = 256
_FORM = re.compile(r"([0-9a-f]{2})-([0-9a-f]{32})-([0-9a-f]{16})-([0-9a-f]{2})(-.*)?", re.DOTALL)
_VERSION = "00"
_INVALID_VERSION = "ff"
_SAMPLED = 1


class TraceContext(NamedTuple):
    """A span by which others are its children. Ids are hexadecimal; `is_sampled`: its caller records the trace."""

    trace_id: str
    span_id: str
    is_sampled: bool

    def __str__(self) -> str:
        return f"{_VERSION}-{self.trace_id}-{self.span_id}-{self.is_sampled:02x}"


def parse(header: str) -> TraceContext | None:
    """Return the trace context of a header, or None if it is not one."""
    found = _FORM.fullmatch(header) if len(header) <= _MAX_LENGTH else None
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if version == _INVALID_VERSION or (version == _VERSION and more):
        return None
    if not trace_id.strip("0") or not span_id.strip("0"):
        return None
    return TraceContext(trace_id, span_id, bool(int(flags, 16) & _SAMPLED))


def cleaned(header: str) -> str:
    """Return a header as this farm stores and sends it; empty if there is none, or it is not a trace context."""
    context = parse(header) if header else None
    return str(context) if context else ""
