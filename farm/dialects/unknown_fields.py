"""Fields that a dialect does not know: refused by name, or ignored with a warning (`FARM_UNKNOWN_FIELDS`). Pure."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar

from farm.domain.errors import InvalidRequest

T = TypeVar("T")
Body = Mapping[str, Any]
Policy = Literal["refuse", "warn"]

#: Maximum number of ignored fields that a warning names.
_NAMED = 20


@dataclass(frozen=True, slots=True)
class UnknownFields:
    """Reads bodies under a policy for the fields in them that the dialect does not know."""

    policy: Policy

    def read(self, read: Callable[[Body], T], body: Body) -> tuple[T, tuple[str, ...]]:
        """Return what `read` makes of the body, and the warnings about ignored fields. Raises InvalidRequest.

        Known fields with wrong values are refused under either policy.
        """
        try:
            return read(body), ()
        except InvalidRequest as error:
            unknown = [problem for problem in error.problems if problem.unknown]
            if self.policy == "refuse" or not unknown:
                raise
        for problem in unknown:
            body = _without(body, problem.unknown)
        return read(body), (_warning([problem.field for problem in unknown]),)


def _without(value: Any, path: Sequence[str | int]) -> Any:
    """Return a copy of `value` without the field at `path`."""
    first, *rest = path
    if isinstance(value, list):
        return [_without(item, rest) if number == first else item for number, item in enumerate(value)]
    if rest:
        return {**value, first: _without(value[first], rest)}
    return {name: item for name, item in value.items() if name != first}


def _warning(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return f"Unknown fields were ignored: {', '.join(names[:_NAMED])}{more}."
