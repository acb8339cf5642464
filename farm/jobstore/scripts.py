"""The job store's scripts: read from `lua/`, put behind the prelude and the table of transitions, run by digest."""

from __future__ import annotations

import hashlib
from importlib import resources
from typing import Any

import redis

from farm.domain.job import TRANSITIONS
from farm.jobstore.redis_keys import PREFIX

NAMES = (
    *("submit", "claim", "renew", "complete", "fail", "release", "cancel", "reap", "leave", "expired", "delete"),
    *("take_unprepared", "hold_unprepared", "release_unprepared", "prepared", "refuse"),
    *("hold_calls", "let_be", "abandon", "drain"),
    *("post", "posted", "redeliver", "test_delivery"),
)


#: What makes room, or records what has happened already, runs also when Redis has reached its limit.
_WHEN_FULL = ("delete", "expired", "posted")


class Scripts:
    """Calls a script by name. Redis forgets scripts when it restarts; the client then sends the text again."""

    def __init__(self, client: redis.Redis) -> None:
        self._client = client
        self._texts = {name: self.text(name) for name in NAMES}
        self._digests = {name: _digest(text) for name, text in self._texts.items()}

    def run(self, name: str, *arguments: str | int | float) -> Any:
        # The library's scripts copy their arguments three times first: of a submit, sixty.
        try:
            return self._client.evalsha(self._digests[name], 0, *arguments)
        except redis.exceptions.NoScriptError:
            self._client.script_load(self._texts[name])
            return self._client.evalsha(self._digests[name], 0, *arguments)

    def text(self, name: str) -> str:
        """What Redis is sent of a script."""
        return _text(name)


def _text(name: str) -> str:
    folder = resources.files("farm.jobstore") / "lua"
    flags = "#!lua flags=allow-oom\n" if name in _WHEN_FULL else ""
    head = f"{flags}local P = '{PREFIX}'\n{_transitions()}\n"
    return head + (folder / "prelude.lua").read_text() + (folder / f"{name}.lua").read_text()


def _digest(text: str) -> str:
    """By what Redis knows a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _transitions() -> str:
    """The one table of transitions as a Lua function, so that only scripts that change a state pay for it."""
    rows = (f"['{origin}>{to}'] = true" for to, origins in TRANSITIONS.items() for origin in sorted(origins))
    return "local function may_go(from, to) return ({" + ", ".join(rows) + "})[from .. '>' .. to] end"
