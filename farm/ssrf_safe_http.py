"""The guarded HTTP client: the one module that may connect to an address that a caller chose.

A name is looked up once, every address of the answer is checked, and the connection goes to a checked address, with
`Host` and certificate by the name. Nothing is followed, nothing is read from the environment but the trust store
(OpenSSL's own SSL_CERT_FILE), and neither size nor time is the other side's to choose. http is allowed beside https:
a receiver in one's own house often has no certificate, and signatures do not rest on TLS.
"""

from __future__ import annotations

import http.client
import io
import ipaddress
import math
import re
import socket
import ssl
import threading
from collections.abc import Callable, Mapping
from contextlib import closing, suppress
from dataclasses import dataclass, field
from functools import cached_property
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

import urllib3.exceptions
from urllib3.connection import HTTPConnection
from urllib3.response import HTTPResponse
from urllib3.util import Url, parse_url

from farm import clock
from farm.concurrency.background_thread import call_in_thread
from farm.domain.errors import ConfigurationError, ForbiddenAddress, TooLarge, Unreachable

#: All addresses of a name, as text; raises OSError when there are none.
Resolve = Callable[[str, int], list[str]]
#: A connection to an address and port within so many seconds; raises OSError.
Connect = Callable[[str, int, float], socket.socket]

#: How much of the answer to a post is kept, for the record.
POST_KEEPS = 4096

_PORTS = {"http": 80, "https": 443}
_LONGEST_URL = 2048
_HEADER_BYTES = 65536
_PIECE = 65536
#: So many addresses of one name are tried, each with its share of the time that is left.
_TRIES = 4

_LATE = "gave no whole answer in time"

_URL = re.compile(r"[!-\[\]-~]+")
_HEADER_NAME = re.compile(r"[0-9A-Za-z_-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
#: What a resolver takes for an IPv4 address, in one of its many spellings, ends like this; no name does.
_NUMERIC = re.compile(r"(^|\.)([0-9]+|0x[0-9a-f]*)$")
_PRIVATE_NAMES = (".local", ".localhost", ".internal", ".home.arpa")

# Written out, since Python's `is_global` changes with its version, and takes NAT64, 6to4 and others for global.
_NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carriers' NAT
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's agent on every virtual machine: public by its number only
        "169.254.0.0/16",  # link-local, and the clouds' metadata
        "172.16.0.0/12",
        "192.0.0.0/24",  # protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, broadcast
    )
)
#: All of IPv6 that is public lies here, less the networks below. Mapped, NAT64, local, multicast lie elsewhere.
_GLOBAL_UNICAST = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # protocol assignments: Teredo, benchmarks, ORCHID
        "2001:db8::/32",  # documentation
        "2002::/16",  # 6to4
        "3fff::/20",  # documentation
    )
)


@dataclass(frozen=True, slots=True)
class Reply:
    """What came back. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL that passed the check. `host` is a name, or an address in its usual spelling without brackets."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str
    is_literal: bool


@dataclass(frozen=True, slots=True)
class _Request:
    """What to send where, how much of the answer to read, and how long all of it may take."""

    method: str
    target: _Target
    limit: int
    seconds: float
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def look_up(host: str, port: int) -> list[str]:
    """The addresses of `host` by this machine's resolver, in its order."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in found))


def connect(address: str, port: int, seconds: float) -> socket.socket:
    """A connection to `address`, which is no name."""
    return socket.create_connection((address, port), seconds)


class SsrfSafeClient:
    """Posts to and gets from addresses that callers chose: public ones, and those that the operator allows.

    `seconds` is the time for all of a call, the lookup and a slow answer included. Any number of threads may call.
    """

    def __init__(
        self, allow: frozenset[str], *, resolve: Resolve = look_up, connect: Connect = connect, seconds: float = 15.0
    ) -> None:
        self._policy = _Policy(allow)
        self._resolve = resolve
        self._connect = connect
        self._seconds = seconds

    @cached_property
    def _tls(self) -> ssl.SSLContext:
        # Reading the trust store takes longer than all else here, and who only checks does without.
        return ssl.create_default_context()

    def check(self, url: str) -> None:
        """Raise ForbiddenAddress for a URL that can be refused by its looks, without a lookup."""
        self._policy.target(url)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Post `body`. Raises ForbiddenAddress or Unreachable. Of the answer's body only POST_KEEPS bytes are read."""
        for name, value in headers.items():
            if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
                raise ValueError(f"{name!r} is no header, or has a value that is not printable ASCII")
        return self._within_time(_Request("POST", self._policy.target(url), POST_KEEPS, self._seconds, body, headers))

    def get(self, url: str, *, limit: int, seconds: float = math.inf) -> Reply:
        """Get what is at `url`, in so many seconds or those of all calls, whichever are fewer.

        Raises ForbiddenAddress or Unreachable: TooLarge for more than `limit` bytes.
        """
        reply = self._within_time(_Request("GET", self._policy.target(url), limit + 1, min(seconds, self._seconds)))
        if len(reply.body) > limit:
            raise TooLarge(f"The answer is larger than {limit} bytes.")
        return reply

    def _within_time(self, request: _Request) -> Reply:
        """Run the exchange in a thread of its own, and end it when time is up, whatever it waits for."""
        line = _Cancellable()
        outcome = call_in_thread("outbound", lambda: self._exchange(request, line))
        try:
            return outcome.result(request.seconds)
        except TimeoutError:
            raise Unreachable(f"{request.target.host} {_LATE}.") from None
        finally:
            line.cut()

    def _exchange(self, request: _Request, line: _Cancellable) -> Reply:
        began = clock.monotonic()
        try:
            with self._open(request.target, began + request.seconds) as plain:
                line.hold(plain)
                with self._secure(plain, request.target) as sock:
                    status, headers, body = _converse(sock, request)
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            raise Unreachable(f"{request.target.host} {_reason(error)}.") from error
        return Reply(status, headers, body, clock.monotonic() - began)

    def _open(self, target: _Target, deadline: float) -> socket.socket:
        """A connection to one of the target's addresses, after all of them were checked."""
        addresses = [target.host] if target.is_literal else self._resolve(target.host, target.port)
        self._policy.check_addresses(target.host, addresses)
        failure: OSError = socket.gaierror(socket.EAI_NONAME, "it has no address")
        tried = addresses[:_TRIES]
        for number, address in enumerate(tried):
            left = deadline - clock.monotonic()
            if left <= 0:
                raise TimeoutError
            try:
                return self._connect(address, target.port, left / (len(tried) - number))
            except OSError as error:
                failure = error
        raise failure

    def _secure(self, plain: socket.socket, target: _Target) -> socket.socket:
        plain.settimeout(self._seconds)
        # Headers and body are two packets; the second shall not wait until the first is acknowledged.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(plain, server_hostname=target.host) if target.scheme == "https" else plain


class _Policy:
    """Which URLs and addresses may be called."""

    def __init__(self, allow: frozenset[str]) -> None:
        names: set[str] = set()
        networks: list[IPv4Network | IPv6Network] = []
        for entry in sorted(allow):
            text = entry.lower().removesuffix(".")
            try:
                networks.append(ipaddress.ip_network(text))
            except ValueError:
                if not _is_name(text):
                    raise ConfigurationError(
                        f"FARM_WEBHOOK_ALLOW has {entry!r}; allowed: host names, IP addresses and networks such as "
                        "10.0.0.0/8, comma-separated"
                    ) from None
                names.add(text)
        self._names = frozenset(names)
        self._networks = tuple(networks)

    def target(self, url: str) -> _Target:
        """Where `url` leads. Raises ForbiddenAddress."""
        parts = _parsed(url)
        spelled = (parts.host or "").lower().removesuffix(".")
        literal = _literal(spelled)
        host = str(literal) if literal else spelled
        if literal:
            self.check_addresses(host, [host])
        else:
            self._check_name(host)
        scheme = parts.scheme
        assert scheme, "a parsed URL has one"
        port = parts.port or _PORTS[scheme]
        named = f"[{host}]" if isinstance(literal, IPv6Address) else host
        authority = named if port == _PORTS[scheme] else f"{named}:{port}"
        return _Target(scheme, host, port, authority, parts.request_uri, is_literal=literal is not None)

    def _check_name(self, host: str) -> None:
        if not _is_name(host):
            raise ForbiddenAddress(f"{host!r} is no host name." if host else "The URL names no host.")
        is_private = "." not in host or host.endswith(_PRIVATE_NAMES)
        if is_private and host not in self._names:
            raise ForbiddenAddress(f"{host} is a private name. FARM_WEBHOOK_ALLOW can allow it.")

    def check_addresses(self, host: str, addresses: list[str]) -> None:
        """Raise ForbiddenAddress unless every one of the host's addresses may be called."""
        # Which address it is stays untold: names of the farm's own network are not the caller's to explore.
        if host not in self._names and not all(map(self._is_open, addresses)):
            raise ForbiddenAddress(f"{host} is not, or not only, a public address. FARM_WEBHOOK_ALLOW can allow it.")

    def _is_open(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return _is_public(address) or any(address in network for network in self._networks)


def _parsed(url: str) -> Url:
    """The parts of a URL that has http or https, no user, and no port 0. Raises ForbiddenAddress."""
    if len(url) > _LONGEST_URL:
        raise ForbiddenAddress(f"The URL is too long; allowed: up to {_LONGEST_URL} characters.")
    # What parsers disagree about is not for any of them.
    if not _URL.fullmatch(url):
        raise ForbiddenAddress(
            "The URL has characters that no URL has; allowed: ASCII, no spaces, no backslashes; encode the rest."
        )
    try:
        parts = parse_url(url)
    except urllib3.exceptions.LocationParseError:
        raise ForbiddenAddress("This is no URL that can be called; allowed: http://… and https://….") from None
    if parts.scheme not in _PORTS:
        raise ForbiddenAddress("The URL must begin with http:// or https://.")
    if parts.auth is not None:
        raise ForbiddenAddress("The URL may not hold a user name or a password.")
    if parts.port == 0:
        raise ForbiddenAddress("Nothing listens on port 0.")
    return parts


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and not _NUMERIC.search(text)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_V6)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """The address that `host` is, None for a name. Raises ForbiddenAddress for an address in any but the usual form."""
    try:
        if "%" in host:
            raise ValueError("an address with a zone means something else on every machine")
        if host.startswith("["):
            return IPv6Address(host[1:-1])
        return IPv4Address(host) if _NUMERIC.search(host) else None
    except ValueError:
        raise ForbiddenAddress(
            f"{host!r} is no IP address in its usual form, as 192.0.2.1 and [2001:db8::1] are."
        ) from None


class _Cancellable:
    """A handle on the connection of an exchange, to end it from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._is_cut = False

    def hold(self, sock: socket.socket) -> None:
        """Take a handle of its own: TLS replaces the socket, and its shutdown is no matter for two threads."""
        with self._lock:
            if self._is_cut:
                raise TimeoutError
            self._handle = sock.dup()

    def cut(self) -> None:
        """End the connection, now or as soon as there is one."""
        with self._lock:
            self._is_cut = True
            if self._handle:
                with suppress(OSError):  # the other side was faster
                    self._handle.shutdown(socket.SHUT_RDWR)
                self._handle.close()


class _Reader(io.BufferedReader):
    """Reads from a stranger, who does not say how much. Lines are counted while they are kept: in the headers."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.header_bytes_left: float = _HEADER_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.header_bytes_left -= len(line)
        if self.header_bytes_left < 0:
            raise http.client.HTTPException("headers without end")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        # http.client believes a chunk that says it is -1 bytes long, and would read on until memory ends.
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk of no possible size")
        return super().read(size)


class _Response(http.client.HTTPResponse):
    """An answer whose headers end, and agree on its length."""

    def begin(self) -> None:
        self.fp = reader = _Reader(self.fp.detach())
        super().begin()
        reader.header_bytes_left = float("inf")
        lengths = {length.strip() for length in self.headers.get_all("content-length", [])}
        if len(lengths) > 1 or not all(length.isdecimal() for length in lengths):
            raise http.client.HTTPException("no length or several")  # RFC 9112, section 6.3


class _Connection(HTTPConnection):
    """HTTP on a socket that is given: it never opens one itself."""

    auto_open = 0
    response_class = _Response


def _converse(sock: socket.socket, request: _Request) -> tuple[int, dict[str, str], bytes]:
    """Send the request, and read the answer up to its limit: status, headers, body."""
    connection = _Connection(request.target.host, request.target.port, timeout=sock.gettimeout())
    connection.sock = sock
    ours = {"Host": request.target.authority, "User-Agent": "srpo-farm", "Accept": "*/*", "Connection": "close"}
    # One may answer before it has read everything; whether it did is seen next.
    with suppress(ConnectionError):
        connection.request(
            request.method,
            request.target.path,
            body=request.body,
            headers={**ours, **request.headers},
            preload_content=False,
            decode_content=False,
        )
    with closing(connection.getresponse()) as response:
        headers = {name.lower(): response.headers[name] for name in response.headers}
        return response.status, headers, _body(response, request.limit)


def _body(response: HTTPResponse, limit: int) -> bytes:
    """The first `limit` bytes, or all there are. What ends before it said is an error."""
    body = bytearray()
    while len(body) < limit and (piece := response.read(min(_PIECE, limit - len(body)))):
        body += piece
    return bytes(body)


def _reason(error: Exception) -> str:
    match error:
        case socket.gaierror():
            return f"cannot be looked up: {error.strerror}"
        case ssl.SSLCertVerificationError():
            return f"shows a certificate that is not good for it: {error.verify_message}"
        case ssl.SSLError():
            return f"does not speak TLS as it should: {error.reason}"
        case TimeoutError() | urllib3.exceptions.TimeoutError():
            return _LATE
        case ConnectionRefusedError():
            return "refuses the connection"
        case ConnectionError() | urllib3.exceptions.ProtocolError() | urllib3.exceptions.SSLError():
            return "closed the connection before its answer was whole"
        case OSError():
            return f"cannot be reached: {error.strerror}"
        case _:
            return "answers with what cannot be read as HTTP"
