"""How long connections may stand still, by the system's own clock."""

from __future__ import annotations

import socket
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest

from api import server
from api.server import Address, Log, Server
from farm.settings import Settings


@pytest.mark.parametrize("wait", [lambda ours: ours.recv(1), lambda ours: ours.sendall(bytes(64 * 1024 * 1024))])
def test_who_sends_or_takes_nothing_is_given_up(
    monkeypatch: pytest.MonkeyPatch, wait: Callable[[socket.socket], object]
) -> None:
    """Else a few hundred of them, without a key, would hold all threads for as long as they like."""
    monkeypatch.setattr(server, "STALL_SECONDS", 1)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        server.give_up_who_stands_still(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)]))
        with (
            socket.create_connection(listener.getsockname()),
            listener.accept()[0] as ours,
        ):
            ours.setblocking(True)  # as gunicorn does
            with pytest.raises((BlockingIOError, TimeoutError)):
                wait(ours)


def test_who_was_cut_off_is_not_in_the_log(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Log(Server(Settings(), Address("127.0.0.1", 0), data_dir=tmp_path).cfg)

    for error in (BlockingIOError(), TimeoutError(), OSError()):
        try:
            raise error
        except OSError as caught:
            log.exception(f"{type(caught).__name__} while serving")

    assert caplog.messages == ["OSError while serving"]


def test_every_listener_of_the_api_is_so(tmp_path: Path) -> None:
    ours = Server(Settings(), Address("127.0.0.1", 0), data_dir=tmp_path)

    assert ours.cfg.when_ready is server.give_up_who_stands_still
