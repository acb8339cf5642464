"""Starts a program that dies with its parent: `python -m farm.process.child PARENT PROGRAM ARGUMENT…`.

So nothing of the farm outlives a `kill -9` of `farm up`, the Redis server included.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys

# Exit statuses of a child that ends by itself. The supervisor starts another, but for the last.
#: What it does makes no progress any more.
EXIT_HUNG = 70
#: It failed again and again, or its device is lost.
EXIT_FAULTY = 71
#: No wake-up reaches it any more.
EXIT_NO_WAKEUPS = 75
#: What only a person can mend; it is not tried again.
EXIT_CONFIG = 78
#: From linux/prctl.h.
_PR_SET_PDEATHSIG = 1


def die_with_parent(parent: int) -> None:
    """Have the kernel kill this process when its parent dies, or leave now if it is dead already."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        os._exit(1)


def command(*program: str) -> list[str]:
    """The command line that starts `program` as a child which dies with the calling process."""
    return [sys.executable, "-m", "farm.process.child", str(os.getpid()), *program]


if __name__ == "__main__":
    die_with_parent(int(sys.argv[1]))
    os.execvp(sys.argv[2], sys.argv[2:])
