"""Stop signals of a process: before it is set up for them, and afterwards."""

from __future__ import annotations

import signal
import subprocess
import sys

import pytest

#: SIGTERM comes while a weak reference's callback runs, as one does whenever a module has been imported.
STARTING = """
import os, signal, weakref
from farm.process.signals import exit_at_once

class Thing: ...

def callback(_):
    os.kill(os.getpid(), signal.SIGTERM)
    for _ in range(1000): pass

signal.signal(signal.SIGTERM, exit_at_once)
thing = Thing()
reference = weakref.ref(thing, callback)
del thing
print("still here")
"""


def test_a_process_that_is_asked_to_stop_in_a_callback_ends() -> None:
    """An exception that is raised there is printed, and nothing else happens."""
    ended = subprocess.run([sys.executable, "-c", STARTING], capture_output=True, text=True, timeout=60, check=False)

    assert (ended.returncode, ended.stdout, ended.stderr) == (0, "", "")


#: Waits for a signal without an end, after a wait that was over before any came.
WAITING = """
import signal
from farm.process.signals import StopSignals, stop_signals

signals = StopSignals(*stop_signals())
print(signals.wait(0.01), flush=True)
signals.wait_for_one()
print("came")
"""

#: Waits for a signal that the kernel has another thread receive, while the main thread is waiting.
RECEIVED_ELSEWHERE = """
import signal, threading, time
from farm.process.signals import StopSignals, stop_signals

def receive():
    time.sleep(0.2)  # the main thread sleeps in the kernel then, which Python cannot see
    signal.pthread_kill(threading.get_ident(), signal.SIGTERM)

signals = StopSignals(*stop_signals())
threading.Thread(target=receive, daemon=True).start()
signals.wait_for_one()
print("came")
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_the_wait_of_the_main_thread(number: signal.Signals) -> None:
    with subprocess.Popen([sys.executable, "-c", WAITING], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"

        process.send_signal(number)

        assert process.communicate(timeout=60)[0] == "came\n"
    assert process.returncode == 0


def test_a_signal_that_another_thread_receives_ends_the_wait_too() -> None:
    program = [sys.executable, "-c", RECEIVED_ELSEWHERE]
    ended = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)

    assert ended.stdout == "came\n"


def test_a_process_that_was_started_to_ignore_hangups_goes_on_ignoring_them() -> None:
    """`nohup` starts one so."""
    ignoring = f"import signal; signal.signal(signal.SIGHUP, signal.SIG_IGN)\n{WAITING}"
    with subprocess.Popen([sys.executable, "-c", ignoring], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "False\n"

        process.send_signal(signal.SIGHUP)
        process.send_signal(signal.SIGTERM)

        assert process.communicate(timeout=60)[0] == "came\n"
