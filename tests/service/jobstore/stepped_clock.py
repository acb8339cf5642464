"""A job store with a clock that the test sets, and a snapshot of everything it has in Redis."""

from __future__ import annotations

import json
from typing import Any

import redis

from farm.jobstore import redis_keys
from farm.jobstore.scripts import Scripts
from farm.jobstore.store import JobStore, Terms

#: What is read of Redis: a set as its members and scores, a hash as its fields, numbers as numbers.
Content = dict[str, Any]

#: Where the scripts read the time, in place of Redis's own clock.
_SECONDS, _MICROSECONDS = "clock:seconds", "clock:microseconds"

_LOOK = """
local READ = {hash = {'HGETALL'}, zset = {'ZRANGE', 0, -1, 'WITHSCORES'}, set = {'SMEMBERS'}, string = {'GET'},
  stream = {'XLEN'}}
local found = {}
for _, key in ipairs(redis.call('KEYS', ARGV[1] .. '*')) do
  local kind = redis.call('TYPE', key).ok
  local read = READ[kind]
  found[key] = {kind, redis.call(read[1], key, unpack(read, 2))}
end
return cjson.encode(found)
"""


class SteppedScripts(Scripts):
    """The scripts as they are, except for how they read the time."""

    def text(self, name: str) -> str:
        return _with_clock(super().text(name))


def _with_clock(text: str) -> str:
    own, given = "redis.call('TIME')", f"redis.call('MGET', '{_SECONDS}', '{_MICROSECONDS}')"
    assert text.count(own) <= 1, "the scripts read the time in one place"
    return text.replace(own, given)


class SteppedStore(JobStore):
    """A job store that reads the time from `set_clock`, and from `holds` whether it can judge heartbeats by it."""

    def __init__(self, client: redis.Redis, terms: Terms) -> None:
        super().__init__(client, terms)
        self._scripts = SteppedScripts(client)
        #: Whether Redis has just started, or its clock has leapt.
        self.holds = False

    def _cannot_judge(self) -> bool:
        return self.holds

    def set_clock(self, now_us: int) -> None:
        set_clock(self._redis, now_us)


def set_clock(client: redis.Redis, now_us: int) -> None:
    """Set the time that stepped scripts read."""
    seconds, microseconds = divmod(now_us, 1_000_000)
    client.mset({_SECONDS: seconds, _MICROSECONDS: microseconds})


def look(client: redis.Redis) -> Content:
    """Return everything that the farm has in Redis, by key without the prefix; of a stream its length."""
    found = json.loads(str(client.eval(_LOOK, 0, redis_keys.PREFIX)))
    return {name.removeprefix(redis_keys.PREFIX): _content(kind, value) for name, (kind, value) in found.items()}


def _content(kind: str, value: Any) -> Content:
    if kind in ("hash", "zset"):
        return {name: _number(text) for name, text in zip(value[::2], value[1::2], strict=True)}
    return dict.fromkeys(value, True) if kind == "set" else {"": _number(value)}


def _number(value: Any) -> Any:
    try:
        return float(value)
    except ValueError:
        return value
