"""The farm's errors: each a code of its own, and a message that a person can use."""

from __future__ import annotations

import pytest

from farm.domain import errors
from farm.domain.errors import FarmError, InvalidRequest, Problem

KINDS = [kind for kind in vars(errors).values() if isinstance(kind, type) and issubclass(kind, FarmError)]


def test_no_two_kinds_share_a_code() -> None:
    assert len({kind.code for kind in KINDS}) == len(KINDS)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind is not InvalidRequest], ids=lambda kind: kind.__name__)
def test_without_a_message_the_docstring_is_shown(kind: type[FarmError]) -> None:
    assert str(kind()) == kind.__doc__
    assert str(kind("no disk")) == "no disk"


def test_an_invalid_request_tells_every_problem() -> None:
    error = InvalidRequest([Problem("seed", "too small", "k"), Problem("", "no JSON", "k")])

    assert str(error) == "seed: too small; no JSON"
