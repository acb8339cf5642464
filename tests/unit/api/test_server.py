"""The server's requests to the kernel, and its log."""

from __future__ import annotations

import os
import socket
import ssl
from pathlib import Path
from types import SimpleNamespace

import pytest

from api.connections import hooks
from api.connections.gthread_worker import SlowClientWorker
from api.connections.hooks import Log, TlsContexts
from api.connections.slow_client_socket import TimedTlsSocket
from api.server import Server
from farm.process.listen import ListenAddress
from farm.settings import Settings


def test_little_of_an_answer_waits_in_the_kernel() -> None:
    """Otherwise the kernel would buffer gigabytes for some hundreds of slow readers."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        hooks.limit_send_buffers(SimpleNamespace(LISTENERS=[SimpleNamespace(sock=listener)]))
        with socket.create_connection(listener.getsockname()), listener.accept()[0] as ours:
            ours.settimeout(0.05)
            with pytest.raises(TimeoutError):  # not even this fits
                ours.sendall(bytes(10 * 1024 * 1024))


def test_a_dropped_connection_is_not_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    log = Log(Server(Settings(), ListenAddress("127.0.0.1", 0), data_dir=tmp_path).cfg)

    for error in (BlockingIOError(), TimeoutError(), OSError()):
        try:
            raise error
        except OSError as caught:
            log.exception(f"{type(caught).__name__} while serving")

    assert caplog.messages == ["OSError while serving"]


@pytest.mark.parametrize("tls", [None, (Path("cert.pem"), Path("key.pem"))])
def test_every_listener_of_the_api_is_so(tmp_path: Path, tls: tuple[Path, Path] | None) -> None:
    ours = Server(Settings(), ListenAddress("127.0.0.1", 0, tls), data_dir=tmp_path)

    assert ours.cfg.when_ready is hooks.limit_send_buffers
    assert ours.cfg.worker_class is SlowClientWorker


def test_a_certificate_is_read_once_and_again_when_it_is_renewed(tmp_path: Path) -> None:
    options = SimpleNamespace(certfile=str(tmp_path / "cert.pem"), keyfile=str(tmp_path / "key.pem"))
    for file in (options.certfile, options.keyfile):
        Path(file).touch()
    contexts = TlsContexts()

    def now() -> ssl.SSLContext:
        return contexts.context(options, lambda: ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER))

    first = now()
    assert now() is first
    assert first.sslsocket_class is TimedTlsSocket

    for file in (options.certfile, options.keyfile):
        os.utime(file, (1, 1))
        assert now() is not first
        first = now()
