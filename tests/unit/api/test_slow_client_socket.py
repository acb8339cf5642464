"""Connections of the API: slow clients are waited for, and too slow ones disconnected, with TLS and without."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import pytest
import trustme

from api.connections import slow_client_socket
from api.connections.slow_client_socket import TimedSocket, timed, with_timed_sockets
from tests.farms import wait_for

pytestmark = pytest.mark.slow

Pair = tuple[socket.socket, TimedSocket]
Open = Callable[[], Pair]


@pytest.fixture(scope="module")
def contexts(tmp_path_factory: pytest.TempPathFactory) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return the TLS contexts of the API and of its client."""
    authority, file = trustme.CA(), tmp_path_factory.mktemp("tls") / "all.pem"
    certificate = authority.issue_cert("localhost")
    certificate.private_key_and_cert_chain_pem.write_to_path(str(file))
    ours, theirs = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH), ssl.create_default_context()
    ours.load_cert_chain(file)
    authority.configure_trust(theirs)
    return with_timed_sockets(ours), theirs


@pytest.fixture(params=["plain", "tls"])
def open_pair(request: pytest.FixtureRequest, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Iterator[Open]:
    """Connect a client and the farm, as gunicorn does."""
    opened: list[socket.socket] = []

    def open_one() -> Pair:
        theirs, ours = connected()
        if request.param == "tls":
            theirs, ours = shaken(theirs, ours, contexts)
        opened.extend((theirs, ours))
        return theirs, ours

    yield open_one
    for one in opened:
        one.close()


def connected() -> Pair:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        theirs = socket.create_connection(listener.getsockname(), timeout=20)
        return theirs, timed(listener.accept()[0])


def shaken(theirs: socket.socket, ours: TimedSocket, contexts: tuple[ssl.SSLContext, ssl.SSLContext]) -> Pair:
    """Return the same over TLS."""
    for_us, for_them = contexts
    safe_line = for_us.wrap_socket(ours, server_side=True, do_handshake_on_connect=False)
    assert isinstance(safe_line, TimedSocket)
    with running(lambda: safe_line.do_handshake()):
        return for_them.wrap_socket(theirs, server_hostname="localhost"), safe_line


@contextmanager
def running(act: Callable[[], object]) -> Iterator[None]:
    """Run `act` in a thread of its own, which ends with the block."""
    thread = threading.Thread(target=act, daemon=True)
    thread.start()
    yield
    thread.join(20)
    assert not thread.is_alive()


@pytest.fixture
def patience(monkeypatch: pytest.MonkeyPatch) -> None:
    """Set a short timeout, and a minimum rate that the client's bytes keep up with."""
    monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 0.4)
    monkeypatch.setattr(slow_client_socket, "MIN_BYTES_PER_SECOND", 100)


@contextmanager
def dripping(theirs: socket.socket, content: bytes, pause: float) -> Iterator[None]:
    """Yield a client that sends a byte at a time until it is stopped."""
    stop = threading.Event()

    def drip() -> None:
        for byte in content:
            theirs.sendall(bytes([byte]))
            if stop.wait(pause):
                return

    with running(drip):
        try:
            yield
        finally:
            stop.set()


def received(ours: TimedSocket, count: int) -> bytes:
    """Return so many bytes, as they arrive."""
    content = b""
    while len(content) < count:
        content += ours.recv(100)
    return content


@pytest.mark.usefixtures("patience")
def test_a_client_that_sends_nothing_is_dropped(open_pair: Open) -> None:
    _, ours = open_pair()
    for begin in (ours.begin_head, ours.begin_exchange):
        begin()
        with pytest.raises(TimeoutError):
            ours.recv(100)


@pytest.mark.usefixtures("patience")
def test_a_head_that_drips_is_given_up(open_pair: Open) -> None:
    """The whole head has a deadline, however regularly its bytes arrive."""
    theirs, ours = open_pair()
    ours.begin_head()
    with dripping(theirs, b"x" * 1000, pause=0.02), pytest.raises(TimeoutError):
        received(ours, 1000)


@pytest.mark.usefixtures("patience")
def test_a_body_that_drips_is_given_up_and_one_that_keeps_the_pace_is_not(
    open_pair: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = open_pair()
    ours.begin_exchange()
    monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 1.0)
    monkeypatch.setattr(slow_client_socket, "MIN_BYTES_PER_SECOND", 0.5)
    ours.begin_exchange()
    with dripping(theirs, b"x" * 100, pause=0.05):
        assert received(ours, 100) == b"x" * 100  # which takes five times what may be stood still

    monkeypatch.setattr(slow_client_socket, "MIN_BYTES_PER_SECOND", 1000)
    ours.begin_exchange()
    with dripping(theirs, b"x" * 1000, pause=0.02), pytest.raises(TimeoutError):
        received(ours, 1000)


@pytest.mark.usefixtures("patience")
def test_a_client_that_reads_nothing_is_dropped(open_pair: Open) -> None:
    _, ours = open_pair()
    ours.begin_exchange()
    with pytest.raises(TimeoutError):
        ours.sendall(bytes(64 * 1024 * 1024))


@pytest.mark.usefixtures("patience")
def test_a_client_that_reads_too_slowly_is_dropped(open_pair: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(slow_client_socket, "MIN_BYTES_PER_SECOND", 1e9)
    theirs, ours = open_pair()
    ours.begin_exchange()
    stop = threading.Event()

    def sip() -> None:
        while not stop.wait(0.02):
            theirs.recv(20_000)

    with running(sip):
        with pytest.raises(TimeoutError):
            ours.sendall(bytes(256 * 1024 * 1024))
        stop.set()


def test_all_of_an_answer_goes(open_pair: Open) -> None:
    theirs, ours = open_pair()
    ours.begin_exchange()
    content = bytes(range(256)) * 4096
    with running(lambda: ours.sendall(content)):
        came = b""
        while len(came) < len(content):
            came += theirs.recv(1024 * 1024)
    assert came == content


def test_a_handshake_that_never_ends_is_given_up(
    contexts: tuple[ssl.SSLContext, ssl.SSLContext], monkeypatch: pytest.MonkeyPatch
) -> None:
    theirs, ours = connected()
    with theirs, ours:
        theirs.sendall(b"\x16\x03\x01")
        monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 0.05)
        with contexts[0].wrap_socket(ours, server_side=True, do_handshake_on_connect=False) as safe_line:
            assert isinstance(safe_line, TimedSocket)
            safe_line.begin_head()
            with pytest.raises(TimeoutError):
                safe_line.do_handshake()


def test_less_patience_may_be_asked_for_but_not_more(open_pair: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = open_pair()
    ours.begin_head()
    ours.settimeout(0.01)
    with pytest.raises(TimeoutError):
        ours.recv(1)

    monkeypatch.setattr(slow_client_socket, "IO_TIMEOUT_SECONDS", 0.05)
    ours.begin_head()
    for ask in (partial(ours.settimeout, 600), partial(ours.setblocking, True), partial(ours.settimeout, None)):
        ask()
        with pytest.raises(TimeoutError):
            ours.recv(1)


def test_a_stalled_connection_reports_its_time_and_can_be_closed(open_pair: Open) -> None:
    _, ours = open_pair()
    ours.begin_head()
    assert ours.stalled_seconds == 0
    ended: list[bytes] = []

    with running(lambda: ended.append(ours.recv(1))):
        wait_for(lambda: ours.stalled_seconds > 0.05)
        ours.hang_up()

    assert ended == [b""]
    assert ours.stalled_seconds == 0
