"""Scarce places of this process: so many in all, and no caller has more than its share."""

from __future__ import annotations

import threading
from collections import Counter

import flask


def caller_of_request() -> str:
    """The id of who sent the current request, where that is known already."""
    caller = flask.g.get("caller")
    return caller.id if caller else ""


class CallerSlots:
    """So many places. Of them one caller has at most `most_of_one`, so that the others find some free."""

    def __init__(self, most: int, most_of_one: int | None = None) -> None:
        self._lock = threading.Lock()
        self._most_of_one = most if most_of_one is None else most_of_one
        self._taken: Counter[str] = Counter()
        self.free = most

    def take(self, caller: str, count: int = 1) -> bool:
        """Take so many, if they may be had; they are to be given back."""
        with self._lock:
            if count > self.free or self._taken[caller] + count > self._most_of_one:
                return False
            self.free -= count
            self._taken[caller] += count
            return True

    def give_back(self, caller: str, count: int = 1) -> None:
        with self._lock:
            self.free += count
            self._taken[caller] -= count
            self._taken += Counter()  # forgets whoever has none
