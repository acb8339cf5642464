"""Runs `farm` commands in this process."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import NamedTuple

import flask
import pytest
from werkzeug.serving import ThreadedWSGIServer

from farm.cli.main import main


class Ended(NamedTuple):
    """A command's exit status and output."""

    status: object
    out: str
    err: str


class Runner:
    """Runs `farm` with the given words in this process, against the farm at `url`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def at(self, url: str) -> Runner:
        self._monkeypatch.setenv("FARM_URL", url)
        return self

    def __call__(self, *words: str) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["farm", *words])
        self._capsys.readouterr()  # what the test itself caused before is not the command's
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code or 0, *self._capsys.readouterr())


def interrupt(_seconds: float) -> None:
    """Do what Ctrl-C does, instead of a pause."""
    raise KeyboardInterrupt


@contextmanager
def served(app: flask.Flask) -> Iterator[str]:
    """Serve an app on a free port, and yield its URL."""
    server = ThreadedWSGIServer("127.0.0.1", 0, app)
    server.daemon_threads = False  # its end waits for their calls: one that goes on would log amid a later test
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
