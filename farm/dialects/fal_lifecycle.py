"""fal's object lifecycle: the retention and the access rules of files, sent as a header. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from farm.dialects.fields import Input, Whole, parse
from farm.domain.errors import InvalidRequest, Problem

#: Most rules of a file, several times as many as fit into a header.
_MAX_RULES = 1000


class Rule(Input):
    """One user's access to the file."""

    user: str
    decision: Literal["allow"]


class Access(Input):
    """Access to the file. Names are unguessable and anyone with the name may read the file, so only `allow` works."""

    default: Literal["allow"] = "allow"
    rules: Annotated[list[Rule], Field(max_length=_MAX_RULES)] = Field(default_factory=list)


class Lifecycle(Input):
    """The value of the header. Source: fal's page on data retention. Null means the farm's own retention."""

    expiration_duration_seconds: Annotated[Whole, Field(ge=1)] | None = None
    initial_acl: Access | None = None


def parse_keep_seconds(text: str, *, max_seconds: float) -> int:
    """Return the retention in seconds, 0 if the header does not set it.

    `max_seconds` is the farm's own retention, which a caller can shorten only. Raises InvalidRequest.
    """
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        message = 'it is not JSON; allowed: an object such as {"expiration_duration_seconds": 3600}'
        raise InvalidRequest([Problem("", message, "json_invalid")]) from None
    seconds = parse(Lifecycle, value).expiration_duration_seconds or 0
    if seconds > max_seconds:
        message = f"longer than this farm keeps files; allowed: 1 to {int(max_seconds)}"
        raise InvalidRequest([Problem("expiration_duration_seconds", message, "less_than_equal", seconds)])
    return seconds
