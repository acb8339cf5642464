"""Runs a program that dies with its parent: `python -m farm.process.child PARENT PROGRAM ARGUMENT…`.

So nothing of the farm outlives a `kill -9` of `farm up`, the Redis server included.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# Exit statuses of a child that ends by itself. The supervisor restarts it, except after the last one, and without a
# device only if it had one before.
#: A watchdog saw no progress.
EXIT_HUNG = 70
#: Too many failures in a row, or the device is lost.
EXIT_FAULTY = 71
#: The device to render on is not there.
EXIT_NO_DEVICE = 72
#: Wake-ups no longer arrive.
EXIT_NO_WAKEUPS = 75
#: A configuration error, which only a person can fix.
EXIT_CONFIG = 78
#: From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies; exit at once if the parent is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def command(*program: str) -> list[str]:
    """Return the command line that runs `program` as a child which dies with the calling process."""
    return module("farm.process.child", str(os.getpid()), *program)


def module(name: str, *words: str) -> list[str]:
    """Return the command line of a module: the installed one, whatever the folder has that a farm is started in."""
    return [sys.executable, "-P", "-m", name, *words]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
