"""The job store's Lua scripts: each is sent with the shared functions that it names, and run by its digest."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator, Mapping
from functools import cache
from importlib import resources
from typing import Any

import redis

from farm.domain.job import TRANSITIONS
from farm.domain.measures import MAX_CALLERS, MEASURES, OTHER_CALLERS
from farm.domain.scheduling import parameters
from farm.jobstore.disk_guard import Guard, no_guard
from farm.jobstore.redis_keys import PREFIX

_FOLDER = resources.files("farm.jobstore") / "lua"

NAMES = tuple(sorted(file.name.removesuffix(".lua") for file in _FOLDER.iterdir() if file.name.endswith(".lua")))

#: Scripts that free memory, or record what has happened to a job or a bulk, and lead it to its end: they run also when
#: Redis has reached its limit. What they add to a record, they add once.
_RUN_WHEN_FULL = frozenset(
    {
        *("delete", "claim_expired", "finish_delivery", "call_answered"),
        *("renew", "complete", "fail", "cancel", "release"),
        *("claim_bulk", "renew_bulk", "release_bulk", "change_bulk", "end_bulk", "record_bulk_file"),
    }
)

#: A top-level `local` of a shared file, with the comment above it, up to the next comment or `local` at the margin.
_DEFINITION = re.compile(r"^(?:--.*\n)*local (?:function )?(\w+)(?s:.*?)(?=^--|^local |\Z)", re.MULTILINE)
_WORD = re.compile(r"\w+")
_COMMENT_OR_STRING = re.compile(r"--.*|'[^'\n]*'")


class Scripts:
    """Runs a script by name. Redis forgets scripts when it restarts; the client then sends the text again."""

    def __init__(self, client: redis.Redis, guard: Guard = no_guard) -> None:
        """Prepare the scripts. `guard` is called with the name of each script before it runs."""
        self._client = client
        self._guard = guard
        self._texts = {name: self.text(name) for name in NAMES}
        self._digests = {name: digest(text) for name, text in self._texts.items()}

    def run(self, name: str, *arguments: str | int | float) -> Any:
        """Return the reply of a script. Raises what the guard raises."""
        self._guard(name)
        # redis-py's Script objects copy the arguments three times: sixty of them, and 1.5 % of its time, for a submit.
        try:
            return self._client.evalsha(self._digests[name], 0, *arguments)
        except redis.exceptions.NoScriptError:
            self._client.script_load(self._texts[name])
            return self._client.evalsha(self._digests[name], 0, *arguments)

    def text(self, name: str) -> str:
        """Return the text of a script as Redis is sent it."""
        return script_text(name)


@cache
def script_text(name: str) -> str:
    """Return the text of a script behind the shared definitions that it needs."""
    flags = "#!lua flags=allow-oom\n" if name in _RUN_WHEN_FULL else ""
    return flags + with_shared((_FOLDER / f"{name}.lua").read_text("utf-8"))


def with_shared(script: str) -> str:
    """Return a script behind every shared definition that it names, and those that they name in turn."""
    return "".join([*_needed_by(script, set()), script])


def digest(text: str) -> str:
    """Return the SHA-1 by which Redis knows a script."""
    return hashlib.sha1(text.encode(), usedforsecurity=False).hexdigest()


def _needed_by(text: str, seen: set[str]) -> Iterator[str]:
    """Yield the shared definitions that `text` names, each behind those that it names itself."""
    shared = shared_definitions()
    for name in _WORD.findall(_COMMENT_OR_STRING.sub("", text)):
        if name in shared and name not in seen:
            seen.add(name)
            yield from _needed_by(shared[name], seen)
            yield shared[name]


@cache
def shared_definitions() -> Mapping[str, str]:
    """Return the Lua definitions that scripts may name: those of `lua/shared/`, and those that Python knows."""
    definitions = {
        "P": f"local P = '{PREFIX}'\n",
        "is_allowed": _transitions(),
        "BUCKETS": _buckets(),
        "POLICY": f"local POLICY = {_lua(parameters())}\n",
        **_callers(),
    }
    for file in (_FOLDER / "shared").iterdir():
        definitions |= {match[1]: match[0] for match in _DEFINITION.finditer(file.read_text("utf-8"))}
    return definitions


def _transitions() -> str:
    """Return the table of transitions as a Lua function."""
    rows = (f"['{origin}>{to}'] = true" for to, origins in TRANSITIONS.items() for origin in sorted(origins))
    return "local function is_allowed(from, to) return ({" + ", ".join(rows) + "})[from .. '>' .. to] end\n"


def _callers() -> dict[str, str]:
    """Return how many callers have counters of their own, and the name that the others share, as Lua constants."""
    return {
        "MAX_CALLERS": f"local MAX_CALLERS = {MAX_CALLERS}\n",
        "OTHER_CALLERS": f"local OTHER_CALLERS = '{OTHER_CALLERS}'\n",
    }


def _lua(value: object) -> str:
    """Return a number, a text, or a sequence or mapping of such as Lua."""
    if isinstance(value, Mapping):
        return "{" + ", ".join(f"{name} = {_lua(item)}" for name, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "{" + ", ".join(map(_lua, value)) + "}"
    return f"'{value}'" if isinstance(value, str) else str(value)


def _buckets() -> str:
    """Return the upper bounds of each histogram's buckets as a Lua table."""
    histograms = ((name, measure.buckets) for name, measure in MEASURES.items() if measure.buckets)
    rows = (f"{name} = {{{', '.join(map(str, bounds))}}}" for name, bounds in histograms)
    return "local BUCKETS = {" + ", ".join(rows) + "}\n"
