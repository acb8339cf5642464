"""The SSRF-safe HTTP client. A test resolves names, and every connection goes to a receiver on loopback."""

from __future__ import annotations

import ipaddress
import random
import socket
import ssl
import struct
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trustme

from farm.domain.errors import ConfigurationError, ForbiddenAddress, Unreachable
from farm.ssrf_safe_http import MAX_POST_ANSWER_BYTES, SsrfSafeClient
from tests.farms import free_port, wait_for

PUBLIC = "93.184.216.34"
OTHER_PUBLIC = "2606:4700::1111"
#: The time for a call in tests that use it up.
SHORT = 0.3
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"

Behaviour = Callable[[socket.socket], None]


class Receiver:
    """Listens on loopback, reads each request, and then behaves as configured."""

    def __init__(self, behave: Behaviour, *, tls: ssl.SSLContext | None = None, reads: bool = True) -> None:
        self.requests: list[bytes] = []
        self._behave, self._tls, self._reads = behave, tls, reads
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._threads = [threading.Thread(target=self._listen)]
        self._threads[0].start()

    def close(self) -> None:
        """Stop, once every connection has ended. May be called twice."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
            assert not thread.is_alive(), "a connection was not closed"
        self._listener.close()

    def _listen(self) -> None:
        with suppress(OSError):
            while True:
                thread = threading.Thread(target=self._serve, args=[self._listener.accept()[0]])
                thread.start()
                self._threads.append(thread)

    def _serve(self, plain: socket.socket) -> None:
        with plain, suppress(OSError), self._secured(plain) as sock:
            if self._reads:
                self.requests.append(read_request(sock))
            self._behave(sock)

    def _secured(self, plain: socket.socket) -> socket.socket:
        return self._tls.wrap_socket(plain, server_side=True) if self._tls else plain


def read_request(sock: socket.socket) -> bytes:
    request = b""
    while b"\r\n\r\n" not in request:
        request += received(sock)
    head, _, body = request.partition(b"\r\n\r\n")
    length = next((int(line[15:]) for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")), 0)
    while len(body) < length:
        body += received(sock)
    return head + b"\r\n\r\n" + body


def received(sock: socket.socket) -> bytes:
    data = sock.recv(65536)
    if not data:
        raise ConnectionError
    return data


def answer(content: bytes) -> Behaviour:
    return lambda sock: sock.sendall(content)


def answer_unread(content: bytes) -> Behaviour:
    """Answer at the first byte, and close."""

    def behave(sock: socket.socket) -> None:
        sock.recv(1)
        sock.sendall(content)

    return behave


def drip(head: bytes, drop: bytes) -> Behaviour:
    """Send `head`, and then `drop` again and again, slowly."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(head)
        while True:
            sock.sendall(drop)
            time.sleep(0.01)

    return behave


def pour(head: bytes, drop: bytes, *, limit: int = 1 << 30) -> Behaviour:
    """Send `head`, and then `drop` again and again, as fast as it goes."""

    def behave(sock: socket.socket) -> None:
        sock.sendall(head)
        for _ in range(limit // len(drop)):
            sock.sendall(drop)

    return behave


def silence(sock: socket.socket) -> None:
    """Never answer; end when the other side does."""
    while sock.recv(65536):
        pass


def reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


@pytest.fixture
def receive() -> Iterator[Callable[..., Receiver]]:
    """Start receivers."""
    started: list[Receiver] = []

    def start(behave: Behaviour, *, tls: ssl.SSLContext | None = None, reads: bool = True) -> Receiver:
        started.append(Receiver(behave, tls=tls, reads=reads))
        return started[-1]

    yield start
    for receiver in started:
        receiver.close()


@dataclass
class Wires:
    """The resolver and connector of a client, and the calls to them."""

    port: int = 0
    names: Mapping[str, list[str]] = field(default_factory=lambda: {"hook.example": [PUBLIC]})
    looked_up: list[str] = field(default_factory=list)
    dialled: list[tuple[str, int]] = field(default_factory=list)

    def resolve(self, host: str, port: int) -> list[str]:
        self.looked_up.append(host)
        return self.names[host]

    def connect(self, address: str, port: int, seconds: float) -> socket.socket:
        self.dialled.append((address, port))
        return socket.create_connection(("127.0.0.1", self.port), seconds)

    def client(self, *allow: str, seconds: float = 15) -> SsrfSafeClient:
        return SsrfSafeClient(frozenset(allow), resolve=self.resolve, connect=self.connect, seconds=seconds)


def post(outbound: SsrfSafeClient, url: str = "http://hook.example/") -> int:
    return outbound.post(url, b"{}", {}).status


# ---- What is refused by its looks


LONG = "http://hook.example/" + "x" * 8192

FORBIDDEN_URLS = [
    # no URL that can be called
    *["", "hook.example", "//hook.example/", "/path", "http://", "http:///path", "http:a.example", "http:/a.example"],
    *["ftp://hook.example/", "file:///etc/passwd", "gopher://hook.example/", "unix:///run/socket", "data:,x", LONG],
    *["http://hook.example:0/", "http://hook.example:65536/", "http://hook.example:x/", "http://hook.example:-1/"],
    *["http://user@hook.example/", "http://user:secret@hook.example/", "http://:@hook.example/"],
    # what parsers disagree about
    *["http://hook.example/a b", "http://hook.example/\t", "http://hook.example/\n", "http://hook.example/\r\nX: y"],
    *["ht\ntp://hook.example/", "http://hook.exa\tmple/", " http://hook.example/", "http://a.example/\0", "http://\x7f/"],
    *["http://a\\@127.0.0.1/", "http:\\\\127.0.0.1\\", "http://a.example\\@127.0.0.1/", "http://127.0.0.1\\.a.example/"],
    *["http://127.0.0.1#@hook.example/", "http://127.0.0.1?@hook.example/", "http://hook.example@127.0.0.1/"],
    *["http://1.1.1.1 &@2.2.2.2# @127.0.0.1/", "http://127.0.0.1:80#.hook.example/", "http://a.example:80@127.0.0.1/"],
    # names of this machine and this network, and what is no name
    *["http://localhost/", "http://LOCALHOST:8080/", "http://localhost./", "http://%6c%6fcalhost/", "http://a.localhost/"],
    *["http://redis:6379/", "http://printer.local/", "http://vault.internal/", "http://metadata.google.internal/"],
    *["http://router.home.arpa/", "http://hook..example/", "http://.example/", "http://-a.example/", "http://a.example../"],
    *["http://hook.exämple/", "http://hook%2eexample%00/", "http://*.example/", f"http://{'a' * 64}.example/"],
    # IPv4, in every spelling that some resolver takes
    *["http://127.0.0.1/", "http://127.0.0.1./", "https://127.1.2.3:8443/", "http://127.1/", "http://127.0.1/", "http://0/"],
    *["http://2130706433/", "http://0x7f000001/", "http://0X7F000001/", "http://0X7F.1/", "http://1.0X7f/"],
    *["http://0x/", "http://127.0.0.0x/", "http://127.0.0.1.0x7f./"],
    *["http://0x7f.0x0.0x0.0x1/", "http://0177.0.0.1/", "http://017700000001/", "http://0177.0x0.1/", "http://256.1.1.1/"],
    *["http://127.000.000.001/", "http://00000127.0.0.1/", "http://1.2.3.4.5/", "http://127.0.0.1%00.hook.example/"],
    *["http://%31%32%37.0.0.1/", "http://127.0.0.1%2e/", "http://127%2E0%2E0%2E1/"],
    *["http://127。0。0。1/", "http://127．0．0．1/", "http://１２７.0.0.1/", "http://①②⑦.0.0.1/"],
    # IPv6
    *["http://[::1]/", "http://[::]/", "http://[0:0:0:0:0:0:0:1]/", "http://[::1%25lo]/", "http://[::1%lo]/", "http://::1/"],
    *["http://[::ffff:127.0.0.1]/", "http://[::FFFF:7F00:1]/", "http://[0:0:0:0:0:ffff:7f00:1]/", "http://[::127.0.0.1]/"],
    *["http://[fe80::1%25eth0]/", "http://[fe80::1]/", f"http://[{OTHER_PUBLIC}%25eth0]/", "http://[::1", "http://[v1.x]/"],
]  # fmt: skip

FORBIDDEN_ADDRESSES = [
    *["0.0.0.0", "0.1.2.3", "10.0.0.1", "10.255.255.255", "100.64.0.1", "100.100.100.200", "100.127.255.255"],
    *["127.0.0.1", "127.255.255.254", "168.63.129.16", "169.254.169.254", "172.16.0.1", "172.31.255.255"],
    *["192.0.0.192", "192.0.2.1", "192.88.99.1", "192.168.0.1", "198.18.0.1", "198.19.255.255", "198.51.100.1"],
    *["203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255"],
    *["::", "::1", "::127.0.0.1", "::ffff:127.0.0.1", "::ffff:93.184.216.34", "::ffff:0:127.0.0.1", "64:ff9b::7f00:1"],
    *["64:ff9b::5db8:d822", "64:ff9b:1::7f00:1", "100::1", "2001::1", "2001:0:7f00:1::", "2001:2::1", "2001:10::1"],
    *["2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:5db8:d822::1", "3fff::1", "5f00::1", "fc00::1"],
    *["fd00:ec2::254", "fe80::1", "fe80::1%2", "fec0::1", "ff02::1", "ff0e::1", "no address", ""],
]  # fmt: skip


@pytest.mark.parametrize("url", FORBIDDEN_URLS)
def test_a_forbidden_url_is_refused_before_anything_is_asked(url: str) -> None:
    wires = Wires()
    outbound = wires.client()

    with pytest.raises(ForbiddenAddress):
        outbound.check(url)
    with pytest.raises(ForbiddenAddress):
        post(outbound, url)
    with pytest.raises(ForbiddenAddress):
        outbound.get(url, limit=100)
    assert (wires.looked_up, wires.dialled) == ([], [])


@pytest.mark.parametrize(
    ("url", "advice"),
    [
        ("https://bücher.example/a.png", "Punycode"),
        ("https://ｅxample.com:8443", "Punycode"),
        ("https://hook.example/ü.png", "percent-encode"),
        ("https://hook.example/?q=ü@x", "percent-encode"),
        ("https://hook example/", "percent-encode"),
        ("https://b%C3%BCcher.example/a.png", "is not a host name"),
    ],
)
def test_other_characters_are_refused_with_the_right_advice(url: str, advice: str) -> None:
    """A host name in percent-encoding is no host name."""
    with pytest.raises(ForbiddenAddress, match=advice):
        Wires().client().check(url)


LITERALS = [address for address in FORBIDDEN_ADDRESSES if address and "%" not in address and " " not in address]


@pytest.mark.parametrize("address", LITERALS)
def test_a_forbidden_address_in_a_url_is_refused(address: str) -> None:
    with pytest.raises(ForbiddenAddress, match="is not, or not only, a public address"):
        Wires().client().check(f"https://[{address}]/" if ":" in address else f"https://{address}/")


@pytest.mark.parametrize("address", FORBIDDEN_ADDRESSES)
@pytest.mark.parametrize("place", ["alone", "first", "last"])
def test_a_name_is_refused_if_any_of_its_addresses_is(address: str, place: str) -> None:
    addresses = {"alone": [address], "first": [address, PUBLIC], "last": [PUBLIC, OTHER_PUBLIC, address]}[place]
    wires = Wires(names={"hook.example": addresses})

    with pytest.raises(ForbiddenAddress) as refused:
        post(wires.client())

    assert wires.looked_up == ["hook.example"]
    assert wires.dialled == []
    assert not address or address not in str(refused.value), "the caller is not told what the name leads to"


PUBLIC_ADDRESSES = [
    *["1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.0"],
    *["168.63.129.15", "168.63.129.17", "169.253.255.255", "169.255.0.0", "172.15.255.255", "172.32.0.0", "192.0.1.0"],
    *["192.167.255.255", "192.169.0.0", "198.17.255.255", "198.20.0.0", "223.255.255.255"],
    *["[2001:200::1]", "[2003::1]", "[2606:4700::1111]", "[2a00:1450::1]", "[3ffe:ffff::1]", "[2001:DB7::1]"],
]  # fmt: skip


@pytest.mark.parametrize("address", PUBLIC_ADDRESSES)
def test_a_public_address_is_allowed(address: str) -> None:
    Wires().client().check(f"http://{address}:8080/hook")


def test_an_address_that_python_calls_not_global_is_refused() -> None:
    """A second list, made by others, over addresses drawn at random."""
    outbound, dice = Wires().client(), random.Random(3)
    fours = [ipaddress.IPv4Address(dice.getrandbits(32)) for _ in range(3000)]
    sixes = [ipaddress.IPv6Address(dice.getrandbits(125) | 1 << 125) for _ in range(1000)]  # in 2000::/3
    addresses: list[ipaddress.IPv4Address | ipaddress.IPv6Address] = [*fours, *sixes]
    allowed = 0

    for address in addresses:
        with suppress(ForbiddenAddress):
            outbound.check(
                f"http://{address}/" if isinstance(address, ipaddress.IPv4Address) else f"http://[{address}]/"
            )
            allowed += 1
            assert address.is_global, address

    assert allowed > 3000


PUBLIC_URLS = [
    *["http://hook.example", "HTTPS://Hook.Example:8443/a%2Fb?c=d&e#f", "http://xn--bcher-kva.example./", "http://a_b.c"],
    *["http://1.example/", "http://0x7f.example/", "http://hook.example#@127.0.0.1/", "http://hook.example:443?"],
]  # fmt: skip


@pytest.mark.parametrize("url", PUBLIC_URLS)
def test_a_url_with_a_public_name_is_allowed(url: str) -> None:
    Wires().client().check(url)


# ---- Where the connection goes


def test_a_name_is_looked_up_once_and_its_checked_address_is_called(receive: Callable[..., Receiver]) -> None:
    """A name that is public when it is checked, and leads to loopback ever after."""
    answers = iter([[PUBLIC], ["127.0.0.1"], ["127.0.0.1"]])
    wires = Wires(receive(answer(OK)).port)

    class Rebinding(dict[str, list[str]]):
        def __getitem__(self, name: str) -> list[str]:
            return next(answers)

    wires.names = Rebinding()

    assert post(wires.client()) == 200
    assert wires.looked_up == ["hook.example"]
    assert wires.dialled == [(PUBLIC, 80)]


@pytest.mark.parametrize(
    ("url", "dialled", "host"),
    [
        ("http://Hook.Example./a?b=c#d", (PUBLIC, 80), "hook.example"),
        ("http://hook.example:80", (PUBLIC, 80), "hook.example"),
        ("http://hook.example:8080/", (PUBLIC, 8080), "hook.example:8080"),
        (f"http://{PUBLIC}/", (PUBLIC, 80), PUBLIC),
        ("http://[2606:4700:0:0::1111]:443/", (OTHER_PUBLIC, 443), f"[{OTHER_PUBLIC}]:443"),
    ],
)
def test_the_receiver_sees_the_name(
    receive: Callable[..., Receiver], url: str, dialled: tuple[str, int], host: str
) -> None:
    receiver = receive(answer(OK))
    wires = Wires(receiver.port)

    assert post(wires.client(), url) == 200

    assert wires.dialled == [dialled]
    assert f"\r\nHost: {host}\r\n".encode() in receiver.requests[0]


def test_nothing_is_sent_but_what_was_given(receive: Callable[..., Receiver], monkeypatch: pytest.MonkeyPatch) -> None:
    """No proxy of the environment is asked, no password file read, no cookie kept."""
    for name in ("HTTP_PROXY", "http_proxy", "HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, f"http://127.0.0.1:{free_port()}")
    receiver = receive(answer(b"HTTP/1.1 200 OK\r\nSet-Cookie: a=b; Path=/\r\nContent-Length: 0\r\n\r\n"))
    wires = Wires(receiver.port)
    outbound = wires.client()

    for _ in range(2):
        outbound.post("http://hook.example/a/b?c=%2f&d", b"{}", {"X-Fal-Webhook-Request-Id": "1"})

    assert wires.dialled == [(PUBLIC, 80), (PUBLIC, 80)]
    head, _, body = receiver.requests[1].partition(b"\r\n\r\n")
    line, *headers = head.decode().split("\r\n")
    assert line == "POST /a/b?c=%2F&d HTTP/1.1"
    assert {header.partition(":")[0] for header in headers} == {
        *("Host", "User-Agent", "Accept", "Accept-Encoding", "Connection", "Content-Length", "X-Fal-Webhook-Request-Id")
    }
    assert {"X-Fal-Webhook-Request-Id: 1", "Connection: close"} <= set(headers)
    assert body == b"{}"


def test_a_redirect_is_an_answer(receive: Callable[..., Receiver]) -> None:
    secret = receive(answer(OK))
    away = f"http://127.0.0.1:{secret.port}/"
    receiver = receive(answer(f"HTTP/1.1 302 Found\r\nLocation: {away}\r\nContent-Length: 0\r\n\r\n".encode()))
    wires = Wires(receiver.port)

    reply = wires.client().post("http://hook.example/", b"{}", {})

    assert (reply.status, reply.headers["location"]) == (302, away)
    assert (len(receiver.requests), secret.requests) == (1, [])
    assert wires.dialled == [(PUBLIC, 80)]


def test_the_next_address_is_tried_where_the_first_refuses(receive: Callable[..., Receiver]) -> None:
    receiver = receive(answer(OK))
    wires = Wires(receiver.port, names={"hook.example": [OTHER_PUBLIC, PUBLIC]})

    def connect(address: str, port: int, seconds: float) -> socket.socket:
        sock = wires.connect(address, port, seconds)
        if address == OTHER_PUBLIC:
            sock.close()
            raise ConnectionRefusedError
        return sock

    outbound = SsrfSafeClient(frozenset(), resolve=wires.resolve, connect=connect)

    assert post(outbound) == 200
    assert wires.dialled == [(OTHER_PUBLIC, 80), (PUBLIC, 80)]
    wait_for(lambda: len(receiver.requests) == 1)


SMUGGLED = [
    *[{"X-A": "b\r\nX-C: d"}, {"X-A": "b\r\n c"}, {"X-A": "b\n"}, {"X-A": "b\rc"}, {"X-A": "b\0"}, {"X-A": "ü"}],
    *[{"X-A\r\nX-C": "d"}, {"X-A: b": "c"}, {"X-A\n": "b"}, {"": "b"}],
]  # fmt: skip


@pytest.mark.parametrize("headers", SMUGGLED)
def test_a_header_cannot_smuggle_another(headers: dict[str, str]) -> None:
    wires = Wires()

    with pytest.raises(ValueError, match="not a valid header"):
        wires.client().post("http://hook.example/", b"{}", headers)

    assert wires.dialled == []


# ---- TLS


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> trustme.CA:
    """Return the authority whose certificates this process trusts."""
    ca = trustme.CA()
    ca.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "ca.pem"))
    return ca


def certified(authority: trustme.CA, name: str) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(name).configure_cert(context)
    return context


def test_the_right_certificate_is_accepted(receive: Callable[..., Receiver], authority: trustme.CA) -> None:
    asked: list[str | None] = []
    context = certified(authority, "hook.example")
    context.sni_callback = lambda _sock, name, _context: asked.append(name)
    wires = Wires(receive(answer(OK), tls=context).port)

    assert post(wires.client(), "https://hook.example./") == 200
    assert asked == ["hook.example"]
    assert wires.dialled == [(PUBLIC, 443)]


def test_the_right_certificate_of_an_address_is_accepted(
    receive: Callable[..., Receiver], authority: trustme.CA
) -> None:
    wires = Wires(receive(answer(OK), tls=certified(authority, OTHER_PUBLIC)).port)

    assert post(wires.client(), f"https://[{OTHER_PUBLIC}]/") == 200


@pytest.mark.parametrize("name", ["other.example", PUBLIC, "example", "*.hook.example"])
def test_a_certificate_for_another_name_is_refused(
    receive: Callable[..., Receiver], authority: trustme.CA, name: str
) -> None:
    receiver = receive(answer(OK), tls=certified(authority, name))

    with pytest.raises(Unreachable, match=r"certificate that is not good.*not valid for 'hook\.example'"):
        post(Wires(receiver.port).client(), "https://hook.example/")

    assert receiver.requests == []


def test_a_certificate_of_an_unknown_authority_is_refused(
    receive: Callable[..., Receiver], authority: trustme.CA
) -> None:
    receiver = receive(answer(OK), tls=certified(trustme.CA(), "hook.example"))

    with pytest.raises(Unreachable, match="certificate"):
        post(Wires(receiver.port).client(), "https://hook.example/")

    assert receiver.requests == []


def test_a_receiver_without_tls_gets_no_plain_text(receive: Callable[..., Receiver]) -> None:
    receiver = receive(answer_unread(OK), reads=False)

    with pytest.raises(Unreachable, match="does not speak TLS"):
        post(Wires(receiver.port).client(), "https://hook.example/")


# ---- Answers that are too much, too slow, or wrong


def test_of_the_answer_to_a_post_the_beginning_is_kept(receive: Callable[..., Receiver]) -> None:
    poured = b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n"
    outbound = Wires(receive(pour(poured, b"x" * 65536)).port).client()

    reply = outbound.post("http://hook.example/", b"{}", {})

    assert (reply.status, reply.body) == (200, b"x" * MAX_POST_ANSWER_BYTES)
    assert reply.seconds < 5


@pytest.mark.parametrize(
    "head",
    [b"Content-Length: 1073741824\r\n\r\n", b"\r\n", b"Transfer-Encoding: chunked\r\n\r\n40000000\r\n"],
    ids=["announced", "unannounced", "chunked"],
)
def test_more_than_a_get_may_bring_is_refused(receive: Callable[..., Receiver], head: bytes) -> None:
    outbound = Wires(receive(pour(b"HTTP/1.1 200 OK\r\n" + head, b"x" * 65536)).port).client()

    with pytest.raises(Unreachable, match="larger than 100000 bytes"):
        outbound.get("http://hook.example/", limit=100_000)


@pytest.mark.parametrize(
    "content",
    [
        b"Content-Length: 10\r\n\r\n0123456789",
        b"Content-Length: 10\r\n\r\n0123456789 and more",
        b"Content-Length: 10\r\nContent-Length: 10 \r\n\r\n0123456789",
        b"\r\n0123456789",
        b"Transfer-Encoding: chunked\r\n\r\n4\r\n0123\r\n6;x=y\r\n456789\r\n0\r\n\r\n",
        b"Content-Encoding: gzip\r\nContent-Length: 10\r\n\r\n0123456789",
    ],
)
def test_an_answer_to_a_get_is_returned_unchanged(receive: Callable[..., Receiver], content: bytes) -> None:
    receiver = receive(answer(b"HTTP/1.1 200 OK\r\nX-A: b\r\nX-A: c\r\n" + content))

    reply = Wires(receiver.port).client().get("http://hook.example/", limit=10)

    assert (reply.status, reply.body, reply.headers["x-a"]) == (200, b"0123456789", "b, c")
    assert receiver.requests[0].startswith(b"GET / HTTP/1.1\r\n")
    assert b"\r\nAccept-Encoding: identity\r\n" in receiver.requests[0]


def test_many_small_chunks_are_read(receive: Callable[..., Receiver]) -> None:
    """Their lines are more than headers may be."""
    head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n"
    receiver = receive(answer(head + b"1\r\nx\r\n" * 30_000 + b"0\r\n\r\n"))

    assert Wires(receiver.port).client().get("http://hook.example/", limit=30_000).body == b"x" * 30_000


@pytest.mark.parametrize(
    "head",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-1\r\n",
        b"HTTP/1.1 200 OK\r\nX-A: ",
        b"",
    ],
    ids=["a long body", "a chunk of -1", "a long line", "no HTTP"],
)
def test_not_much_more_is_read_than_is_kept(receive: Callable[..., Receiver], head: bytes) -> None:
    """The two kernels buffer a few megabytes."""
    sent = 0

    def behave(sock: socket.socket) -> None:
        nonlocal sent
        sock.sendall(head)
        while sent < 1 << 28:
            sent += sock.send(b"x" * 65536)

    receiver = receive(behave)

    with suppress(Unreachable):
        post(Wires(receiver.port).client())

    receiver.close()
    assert 0 < sent < 1 << 25


def times(drop: bytes, number: int) -> Behaviour:
    """Return a good answer, with `drop` repeated `number` times before the end of the headers."""
    return answer(b"HTTP/1.1 200 OK\r\n" + drop * number + b"Content-Length: 0\r\n\r\n")


def chunk(size: bytes) -> Behaviour:
    return pour(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n" + size, b"x" * 65536, limit=1 << 26)


BROKEN = "closed the connection before its answer was whole"
UNREADABLE = "answers with what cannot be read as HTTP"
WRONG = {
    "nothing": (answer(b""), BROKEN),
    "a reset": (reset, BROKEN),
    "less than announced": (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok"), BROKEN),
    "a chunk too few": (answer(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n"), BROKEN),
    "no chunk": (chunk(b"ok, ok\r\n"), BROKEN),
    # http.client takes this for `as much as there is`.
    "a chunk of -1": (chunk(b"-1\r\n"), BROKEN),
    "a chunk of -5": (chunk(b"-5\r\n"), BROKEN),
    "two lengths": (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nok"), UNREADABLE),
    "two lengths in one": (answer(b"HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nok"), UNREADABLE),
    "a length below zero": (answer(b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok"), UNREADABLE),
    "a length in words": (answer(b"HTTP/1.1 200 OK\r\nContent-Length: two\r\n\r\nok"), UNREADABLE),
    "no HTTP": (answer(b"220 mail.example ESMTP\r\n"), UNREADABLE),
    "another version": (answer(b"HTTP/3 200 OK\r\n\r\n"), UNREADABLE),
    "an endless line": (pour(b"HTTP/1.1 200 OK\r\nX-A: ", b"a" * 65536, limit=1 << 26), UNREADABLE),
    "a hundred lines": (times(b"X-A: b\r\n", 101), UNREADABLE),
    "long lines": (times(b"X-A: " + b"b" * 8192 + b"\r\n", 8), UNREADABLE),
    "much to continue": (answer(b"HTTP/1.1 100 Continue\r\n\r\n" * 4000 + OK), UNREADABLE),
}


@pytest.mark.parametrize("wrong", WRONG)
def test_an_invalid_http_answer_is_an_error(receive: Callable[..., Receiver], wrong: str) -> None:
    behave, reason = WRONG[wrong]

    with pytest.raises(Unreachable) as failed:
        post(Wires(receive(behave).port).client())

    assert str(failed.value) == f"hook.example {reason}."


def test_an_answer_counts_although_the_request_was_not_read(receive: Callable[..., Receiver]) -> None:
    gone = receive(answer_unread(b"HTTP/1.1 410 Gone\r\n\r\n"), reads=False)

    reply = Wires(gone.port).client().post("http://hook.example/", b"x" * 8_000_000, {})

    assert reply.status == 410


def test_a_refused_connection_is_reported(receive: Callable[..., Receiver]) -> None:
    with pytest.raises(Unreachable, match=r"hook\.example refuses the connection"):
        post(Wires(free_port()).client())


def test_a_host_name_that_does_not_exist_is_reported() -> None:
    wires = Wires()

    def resolve(host: str, port: int) -> list[str]:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    with pytest.raises(Unreachable, match=r"hook\.example cannot be looked up: Name or service not known"):
        post(SsrfSafeClient(frozenset(), resolve=resolve, connect=wires.connect))
    with pytest.raises(Unreachable, match=r"hook\.example cannot be looked up: no address"):
        post(Wires(names={"hook.example": []}).client())
    assert wires.dialled == []


# ---- The deadline

SLOW = {
    "nothing": silence,
    "a status": drip(b"HTTP/1.1 ", b"2"),
    "headers": drip(b"HTTP/1.1 200 OK\r\n", b"X"),
    "a body": drip(b"HTTP/1.1 200 OK\r\nContent-Length: 1000\r\n\r\n", b"x"),
    "a body of no length": drip(b"HTTP/1.1 200 OK\r\n\r\n", b"x"),
    "chunks": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n"),
    "a trailer": drip(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X-A: b\r\n"),
}


@contextmanager
def out_of_time() -> Iterator[None]:
    """Check that the block fails when SHORT has passed, and not much later."""
    began = time.monotonic()
    with pytest.raises(Unreachable, match=r"hook\.example did not answer completely in time"):
        yield
    assert SHORT <= time.monotonic() - began < SHORT + 3


@pytest.mark.parametrize("slow", SLOW)
def test_a_slow_answer_ends_at_the_deadline(receive: Callable[..., Receiver], slow: str) -> None:
    outbound = Wires(receive(SLOW[slow]).port).client(seconds=SHORT)

    with out_of_time():
        post(outbound)


def test_a_slow_answer_over_tls_ends_at_the_deadline(receive: Callable[..., Receiver], authority: trustme.CA) -> None:
    receiver = receive(drip(b"HTTP/1.1 200 OK\r\n", b"X"), tls=certified(authority, "hook.example"))

    with out_of_time():
        post(Wires(receiver.port).client(seconds=SHORT), "https://hook.example/")


def test_a_handshake_without_end_ends_at_the_deadline(receive: Callable[..., Receiver]) -> None:
    outbound = Wires(receive(silence, reads=False).port).client(seconds=SHORT)

    with out_of_time():
        post(outbound, "https://hook.example/")


def test_a_receiver_that_does_not_read_ends_at_the_deadline(receive: Callable[..., Receiver]) -> None:
    done = threading.Event()

    def behave(sock: socket.socket) -> None:
        done.wait(10)

    outbound = Wires(receive(behave, reads=False).port).client(seconds=SHORT)

    with out_of_time():
        outbound.post("http://hook.example/", b"x" * 64_000_000, {})

    done.set()


def outbound_threads() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "outbound"]


def test_a_lookup_without_end_ends_at_the_deadline_and_nothing_is_called_later() -> None:
    found, wires = threading.Event(), Wires()

    def resolve(host: str, port: int) -> list[str]:
        found.wait(10)
        return [PUBLIC]

    with out_of_time():
        post(SsrfSafeClient(frozenset(), resolve=resolve, connect=wires.connect, seconds=SHORT))

    found.set()
    wait_for(lambda: not outbound_threads())
    assert wires.dialled == []


def test_nothing_is_sent_on_a_connection_that_came_too_late(receive: Callable[..., Receiver]) -> None:
    late, receiver = threading.Event(), receive(answer(OK))
    wires = Wires(receiver.port)

    def connect(address: str, port: int, seconds: float) -> socket.socket:
        late.wait(10)
        return wires.connect(address, port, seconds)

    with out_of_time():
        post(SsrfSafeClient(frozenset(), resolve=wires.resolve, connect=connect, seconds=SHORT))

    late.set()
    wait_for(lambda: not outbound_threads())
    assert wires.dialled == [(PUBLIC, 80)]
    assert receiver.requests == []


def test_a_few_addresses_share_the_time_and_the_others_are_not_tried() -> None:
    wires = Wires(names={"hook.example": [f"93.184.216.{number}" for number in range(100)]})
    tried: list[float] = []

    def connect(address: str, port: int, seconds: float) -> socket.socket:
        tried.append(seconds)
        threading.Event().wait(seconds)
        raise TimeoutError

    with out_of_time():
        post(SsrfSafeClient(frozenset(), resolve=wires.resolve, connect=connect, seconds=SHORT))

    wait_for(lambda: not outbound_threads())
    assert tried[0] <= SHORT / 4
    assert len(tried) <= 4


def test_a_connected_address_has_all_the_time_that_is_left(receive: Callable[..., Receiver]) -> None:
    """Only connecting is shared between addresses: this answer takes longer than a quarter of the time."""

    def behave(sock: socket.socket) -> None:
        time.sleep(0.7)
        sock.sendall(OK)

    wires = Wires(receive(behave).port, names={"hook.example": [f"93.184.216.{number}" for number in range(4)]})

    assert post(wires.client(seconds=2.4)) == 200


def test_sixty_four_threads_deliver_at_a_time(receive: Callable[..., Receiver]) -> None:
    receiver = receive(lambda sock: sock.sendall(b"HTTP/1.1 200 OK\r\n\r\n" + threading.current_thread().name.encode()))
    wires = Wires(receiver.port)
    outbound, together = wires.client(), threading.Barrier(64)

    def deliver(number: int) -> int:
        together.wait(10)
        return outbound.post("http://hook.example/", str(number).encode(), {}).status

    with ThreadPoolExecutor(64) as pool:
        assert list(pool.map(deliver, range(64))) == [200] * 64

    assert {request.rpartition(b"\r\n")[2] for request in receiver.requests} == {b"%d" % n for n in range(64)}


# ---- What the operator allows

PRIVATE = {
    "receiver": ["10.0.0.5"],
    "receiver2": ["10.0.0.5"],
    "my.receiver": ["10.0.0.5"],
    "hook.corp.example": ["10.0.0.5"],
    "other.corp.example": ["10.0.0.5"],
    "both.example": ["10.0.0.5", "10.0.0.6"],
    "six.example": ["fd00::5"],
    "mapped.example": ["::ffff:10.0.0.5"],
}


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("receiver", "http://receiver/"),
        ("receiver", "http://RECEIVER.:8080/"),
        ("Receiver.", "http://receiver/"),
        ("hook.corp.example", "http://hook.corp.example/"),
        ("both.example", "http://both.example/"),
        ("10.0.0.5", "http://10.0.0.5/"),
        ("10.0.0.5", "http://hook.corp.example/"),
        ("10.0.0.4/30", "http://both.example/"),
        ("10.0.0.0/8", "http://both.example/"),
        ("fd00::5", "http://[fd00:0::5]/"),
        ("FD00::/8", "http://six.example/"),
        ("::ffff:10.0.0.5", "http://mapped.example/"),
    ],
)
def test_an_entry_admits(receive: Callable[..., Receiver], entry: str, url: str) -> None:
    wires = Wires(receive(answer(OK)).port, names=PRIVATE)
    outbound = wires.client("other", entry)

    outbound.check(url)
    assert post(outbound, url) == 200


@pytest.mark.parametrize(
    ("entry", "url"),
    [
        ("receiver", "http://receiver2/"),
        ("receiver", "http://my.receiver/"),
        ("receiver", "http://10.0.0.5/"),
        ("hook.corp.example", "http://other.corp.example/"),
        ("corp.example", "http://hook.corp.example/"),
        ("10.0.0.5", "http://10.0.0.6/"),
        ("10.0.0.5", "http://both.example/"),
        ("10.0.0.4/31", "http://both.example/"),
        ("10.0.0.5", "http://[::ffff:10.0.0.5]/"),
        ("10.0.0.0/8", "http://mapped.example/"),
        ("10.0.0.0/8", "http://receiver/"),
        ("fd00::5", "http://[fd00::6]/"),
        ("fd00::/120", "http://[fd00::100]/"),
        ("fd00::/8", "http://10.0.0.5/"),
        ("127.0.0.1", "http://localhost/"),
        ("localhost", "http://127.0.0.1/"),
    ],
)
def test_an_entry_does_not_admit_its_neighbour(entry: str, url: str) -> None:
    wires = Wires(names=PRIVATE)

    with pytest.raises(ForbiddenAddress, match="FARM_WEBHOOK_ALLOW"):
        post(wires.client(entry), url)

    assert wires.dialled == []


NO_ENTRIES = [
    *["", "http://receiver", "receiver:8080", "*.corp.example", "a b", "exämple", "/etc", "-a", "[::1]", "fe80::1%"],
    *["10.0.0.1/8", "10.0.0.0/33", "10.0.0", "127.1", "2130706433", "0x7f.1", "010.0.0.1"],
]  # fmt: skip


@pytest.mark.parametrize("entry", NO_ENTRIES)
def test_an_invalid_entry_is_named(entry: str) -> None:
    with pytest.raises(ConfigurationError) as refused:
        SsrfSafeClient(frozenset({"receiver", entry}))

    assert str(refused.value).startswith(
        f"FARM_WEBHOOK_ALLOW has {entry!r}; allowed: host names, IP addresses and networks"
    )


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost"])
def test_this_machine_can_be_allowed(receive: Callable[..., Receiver], host: str) -> None:
    """Use the real resolver and connector."""
    receiver = receive(answer(OK))

    reply = SsrfSafeClient(frozenset({host})).post(f"http://{host}:{receiver.port}/", b"{}", {})

    assert (reply.status, reply.body) == (200, b"ok")
    assert 0 < reply.seconds < 10
