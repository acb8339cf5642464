"""How a worker ends that is told to before it has begun."""

from __future__ import annotations

import subprocess
import sys

#: SIGTERM comes while a weak reference's callback runs, as one does whenever a module has been imported.
PROGRAM = """
import os, signal, weakref
from workers.celery_worker import leave_at_once

class Thing: ...

def callback(_):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000): pass

signal.signal(signal.SIGTERM, leave_at_once)
thing = Thing()
reference = weakref.ref(thing, callback)
del thing
print("still here")
"""


def test_a_worker_that_is_told_to_leave_in_a_callback_leaves() -> None:
    """An exception that is raised there is printed, and no more."""
    ended = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")
