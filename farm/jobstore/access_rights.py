"""The rights that the farm's user of a Redis needs: commands, keys and channels."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import cast

import redis

from farm.jobstore import redis_keys

#: Every command that the farm and Celery's transport send, with arguments: a server may crash on too few of them.
#: `{name}` stands for a key or a channel of the farm.
KEY_COMMANDS = (
    *("brpop {name} 1", "del {name}", "eval text 1 {name}", "evalsha text 1 {name}", "exists {name}"),
    *("expire {name} 1", "get {name}", "hdel {name} a", "hexists {name} a", "hget {name} a", "hgetall {name}"),
    *(
        "hincrby {name} a 1",
        "hkeys {name}",
        "hlen {name}",
        "hmget {name} a",
        "hset {name} a 1",
        "hsetnx {name} a 1",
        "incr {name}",
    ),
    *(
        "incrby {name} 1",
        "llen {name}",
        "lpop {name}",
        "lpush {name} a",
        "lrange {name} 0 1",
        "lrem {name} 1 a",
        "ltrim {name} 0 1",
        "mget {name}",
    ),
    *("pexpire {name} 1", "rpop {name}", "rpush {name} a", "sadd {name} a", "scard {name}", "set {name} a"),
    *("sismember {name} a", "smembers {name}", "srem {name} a", "sunion {name}", "watch {name}"),
    *("xadd {name} * a 1", "xrange {name} - +", "xread STREAMS {name} 0", "xrevrange {name} + -"),
    *("zadd {name} 1 a", "zcard {name}", "zcount {name} 0 1", "zrange {name} 0 1", "zrangebyscore {name} 0 1"),
    *("zrank {name} a", "zrem {name} a", "zremrangebyscore {name} 0 1", "zrevrangebyscore {name} 1 0"),
    *("zincrby {name} 1 a", "zrevrange {name} 0 1", "zrevrank {name} a", "zscore {name} a"),
)
CHANNEL_COMMANDS = ("publish {name} text", "subscribe {name}")
#: Celery's workers subscribe to this pattern, which a user must have literally: `srpo:*` does not cover it.
PATTERN_COMMANDS = ("psubscribe {name}",)
OTHER_COMMANDS = (
    *("exec", "info", "multi", "ping", "script|exists text", "script|load text", "select 0", "time", "unwatch"),
    *("punsubscribe", "unsubscribe", "pubsub|numsub {name}"),
)

#: Needs Redis 7.0, as the farm does. It runs none of the commands.
_REFUSED = """
local refused = {}
for number, command in ipairs(ARGV) do
    if not redis.acl_check_cmd(unpack(cjson.decode(command))) then
        refused[#refused + 1] = number
    end
end
return refused
"""


def command_names() -> frozenset[str]:
    """Return the names of all commands that the farm's user must be allowed, as INFO commandstats has them."""
    return frozenset(map(_name, KEY_COMMANDS + CHANNEL_COMMANDS + PATTERN_COMMANDS + OTHER_COMMANDS))


def celery_channel(database: int) -> str:
    """Return the pattern of Celery's channel for remote control."""
    return f"{redis_keys.CELERY}/{database}.celery.pidbox"


def missing_rights(client: redis.Redis) -> list[str]:
    """Return the ACL rules that the client's user lacks, such as `~srpo:*` or `+xadd`.

    Keys or channels are missing if every command that names one is refused. Commands that name channels may be missing
    themselves then: they are listed, too.
    """
    celery = celery_channel(client.connection_pool.connection_kwargs.get("db") or 0)
    every = redis_keys.PREFIX + "*"
    keys = _refused(client, KEY_COMMANDS, redis_keys.PREFIX + "rights")
    channels = _refused(client, CHANNEL_COMMANDS, redis_keys.PREFIX + "rights")
    patterns = _refused(client, PATTERN_COMMANDS, celery)
    return [
        *([f"~{every}"] if len(keys) == len(KEY_COMMANDS) else _rules(keys)),
        *([f"&{every}"] if len(channels) == len(CHANNEL_COMMANDS) else []),
        *_rules(channels),
        *([f"&{celery}"] if patterns else []),
        *_rules(patterns),
        *_rules(_refused(client, OTHER_COMMANDS, celery)),
    ]


def _refused(client: redis.Redis, commands: tuple[str, ...], name: str) -> list[str]:
    """Return the commands of this user that the server would refuse with this key or channel."""
    questions = [json.dumps(_words(command, name)) for command in commands]
    return [commands[number - 1] for number in cast(list[int], client.eval(_REFUSED, 0, *questions))]


def _words(command: str, name: str) -> list[str]:
    return command.format(name=name).replace("|", " ").split()


def _name(command: str) -> str:
    return command.split()[0]


def _rules(commands: Iterable[str]) -> list[str]:
    return [f"+{_name(command)}" for command in commands]
