"""fal's wish for how long a file is kept and who may read it, as headers of submits and uploads bring it. Pure."""

from __future__ import annotations

import json
from typing import Annotated, Literal

from pydantic import Field

from farm.dialects.fields import Input, Whole, parse
from farm.domain.errors import InvalidRequest, Problem


class Rule(Input):
    """What one user may do with the file."""

    user: str
    decision: Literal["allow"]


class Access(Input):
    """Who may read the file. Whoever knows its unguessable name may: nobody can be kept out here."""

    default: Literal["allow"] = "allow"
    rules: list[Rule] = Field(default_factory=list)


class Lifecycle(Input):
    """The wish. Source: fal's page on data retention; null is for ever there, and as long as may be here."""

    expiration_duration_seconds: Annotated[Whole, Field(ge=1, le=10**9)] | None = None
    initial_acl: Access | None = None


def parse_keep_seconds(text: str) -> int:
    """Seconds for which the file is to be kept; 0 where the header does not say. Raises InvalidRequest."""
    try:
        wish = json.loads(text)
    except (ValueError, RecursionError):
        message = 'it is no JSON; allowed is an object such as {"expiration_duration_seconds": 3600}'
        raise InvalidRequest([Problem("", message, "json_invalid")]) from None
    return parse(Lifecycle, wish).expiration_duration_seconds or 0
