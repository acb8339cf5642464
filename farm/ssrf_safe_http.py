"""HTTP client with SSRF protection: the only module that connects to addresses that callers chose.

A host name is resolved once, every address of the answer is checked, and the connection goes to a checked address, with
`Host` and certificate by the name: DNS rebinding has no effect. Redirects are not followed, proxy variables are ignored
(only OpenSSL's SSL_CERT_FILE is read), and size and time are bounded. http is allowed beside https: receivers in a
private network often have no certificate, and webhook signatures do not rely on TLS.
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

#: Resolves a host name to all of its addresses, as text; raises OSError if there are none.
Resolve = Callable[[str, int], list[str]]
#: Connects to an address and port within so many seconds; raises OSError.
Connect = Callable[[str, int, float], socket.socket]

#: Bytes of the answer to a post that are read, for the delivery record.
MAX_POST_ANSWER_BYTES = 4096

_PORTS = {"http": 80, "https": 443}
#: Longest URL, in characters: presigned ones with a session token take thousands.
MAX_URL_LENGTH = 8192
_MAX_HEADER_BYTES = 65536
_CHUNK_BYTES = 65536
#: Addresses of one name that are tried, each with an equal share of the time left.
_MAX_ADDRESSES = 4

_TIMED_OUT = "did not answer completely in time"

_URL = re.compile(r"[!-\[\]-~]+")
#: Everything of a URL that names its server.
_AUTHORITY = re.compile(r"[A-Za-z]+://([^/?#\\]*)")
_HEADER_NAME = re.compile(r"[0-9A-Za-z_-]+")
_HEADER_VALUE = re.compile(r"[ -~]*")
_LABEL = r"(?!-)[a-z0-9_-]{1,63}(?<!-)"
_NAME = re.compile(rf"(?=.{{1,253}}$){_LABEL}(\.{_LABEL})*")
#: The end of anything that a resolver takes for an IPv4 address, in any spelling; no host name ends so.
_NUMERIC = re.compile(r"(^|\.)([0-9]+|0x[0-9a-f]*)$")
_PRIVATE_NAMES = (".local", ".localhost", ".internal", ".home.arpa")

# Listed here, since Python's `is_global` differs between versions, and takes NAT64, 6to4 and others for global.
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
    """An HTTP response. Header names are in lower case."""

    status: int
    headers: Mapping[str, str]
    body: bytes
    seconds: float


@dataclass(frozen=True, slots=True)
class _Target:
    """A URL that passed the check. `host` is a name, or an address in canonical form without brackets."""

    scheme: str
    host: str
    port: int
    authority: str
    path: str
    is_literal: bool


@dataclass(frozen=True, slots=True)
class _Request:
    """An HTTP request, the most bytes of the answer to read, and the timeout for all of it."""

    method: str
    target: _Target
    limit: int
    seconds: float
    body: bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)


def look_up(host: str, port: int) -> list[str]:
    """Resolve `host` with this machine's resolver; return its addresses in the resolver's order."""
    entries = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(entry[4][0]) for entry in entries))


def connect(address: str, port: int, seconds: float) -> socket.socket:
    """Connect to an IP address."""
    return socket.create_connection((address, port), seconds)


class SsrfSafeClient:
    """Posts to and gets from URLs that callers chose, if their addresses are public or allowed by the operator.

    `seconds` is the timeout of a whole call, DNS lookup and a slow answer included. Thread-safe.
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
        # Loading the trust store is slow, and checking a URL does not need it.
        return ssl.create_default_context()

    def check(self, url: str) -> None:
        """Raise ForbiddenAddress for a URL that can be rejected without a DNS lookup."""
        self._policy.target(url)

    def post(self, url: str, body: bytes, headers: Mapping[str, str]) -> Reply:
        """Post `body`; read at most MAX_POST_ANSWER_BYTES of the answer. Raises ForbiddenAddress or Unreachable."""
        for name, value in headers.items():
            if not (_HEADER_NAME.fullmatch(name) and _HEADER_VALUE.fullmatch(value)):
                raise ValueError(f"{name!r} is not a valid header name, or its value is not printable ASCII")
        return self._within_time(
            _Request("POST", self._policy.target(url), MAX_POST_ANSWER_BYTES, self._seconds, body, headers)
        )

    def get(self, url: str, *, limit: int, seconds: float = math.inf) -> Reply:
        """Get `url`, within `seconds` or the timeout of all calls, whichever is shorter.

        Raises ForbiddenAddress or Unreachable, and TooLarge for more than `limit` bytes.
        """
        reply = self._within_time(_Request("GET", self._policy.target(url), limit + 1, min(seconds, self._seconds)))
        if len(reply.body) > limit:
            raise TooLarge(f"The answer is larger than {limit} bytes.")
        return reply

    def _within_time(self, request: _Request) -> Reply:
        """Run the exchange in a thread of its own, and cut its connection at the timeout, whatever it waits for."""
        began, connection = clock.monotonic(), _Cancellable()
        outcome = call_in_thread("outbound", lambda: self._exchange(request, connection, began))
        try:
            return outcome.result(request.seconds)
        except TimeoutError:
            raise Unreachable(f"{request.target.host} {_TIMED_OUT}.") from None
        finally:
            connection.cut()

    def _exchange(self, request: _Request, connection: _Cancellable, began: float) -> Reply:
        try:
            with self._open(request.target, began + request.seconds) as plain:
                connection.hold(plain)
                with self._secure(plain, request.target) as sock:
                    status, headers, body = _converse(sock, request)
        except (OSError, http.client.HTTPException, urllib3.exceptions.HTTPError) as error:
            raise Unreachable(f"{request.target.host} {_reason(error)}.") from error
        return Reply(status, headers, body, clock.monotonic() - began)

    def _open(self, target: _Target, deadline: float) -> socket.socket:
        """Connect to one of the target's addresses, after all of them were checked."""
        addresses = [target.host] if target.is_literal else self._resolve(target.host, target.port)
        self._policy.check_addresses(target.host, addresses)
        failure: OSError = socket.gaierror(socket.EAI_NONAME, "no address")
        tried = addresses[:_MAX_ADDRESSES]
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
        # Headers and body are two packets: without Nagle the second does not wait for the first to be acknowledged.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        return self._tls.wrap_socket(plain, server_hostname=target.host) if target.scheme == "https" else plain


class _Policy:
    """The rules for URLs and addresses that may be called."""

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
        """Parse and check `url`. Raises ForbiddenAddress."""
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
            raise ForbiddenAddress(f"{host!r} is not a host name." if host else "The URL names no host.")
        is_private = "." not in host or host.endswith(_PRIVATE_NAMES)
        if is_private and host not in self._names:
            raise ForbiddenAddress(f"{host} is a private name. FARM_WEBHOOK_ALLOW can allow it.")

    def check_addresses(self, host: str, addresses: list[str]) -> None:
        """Raise ForbiddenAddress unless every one of the host's addresses may be called."""
        # The error does not show the address: callers must not explore the farm's network.
        if host not in self._names and not all(map(self._is_open, addresses)):
            raise ForbiddenAddress(f"{host} is not, or not only, a public address. FARM_WEBHOOK_ALLOW can allow it.")

    def _is_open(self, text: str) -> bool:
        try:
            address = ipaddress.ip_address(text)
        except ValueError:
            return False
        return _is_public(address) or any(address in network for network in self._networks)


def _parsed(url: str) -> Url:
    """Parse a URL with http or https, no user, and no port 0. Raises ForbiddenAddress."""
    if len(url) > MAX_URL_LENGTH:
        raise ForbiddenAddress(f"The URL is too long; allowed: up to {MAX_URL_LENGTH} characters.")
    # Reject what URL parsers disagree about.
    if not _URL.fullmatch(url):
        raise ForbiddenAddress(_character_problem(url))
    try:
        parts = parse_url(url)
    except urllib3.exceptions.LocationParseError:
        raise ForbiddenAddress("The URL is invalid; allowed: http://… and https://….") from None
    if parts.scheme not in _PORTS:
        raise ForbiddenAddress("The URL must begin with http:// or https://.")
    if parts.auth is not None:
        raise ForbiddenAddress("The URL must not contain a user name or a password.")
    if parts.port == 0:
        raise ForbiddenAddress("Port 0 is not a valid port.")
    return parts


def _character_problem(url: str) -> str:
    """Return what is wrong with the characters of a URL, and how to write them."""
    authority = _AUTHORITY.match(url)
    if authority and not authority[1].isascii():
        return "The host name of the URL is not ASCII; write it in Punycode, as xn--…, which libraries for IDNA do."
    return "The URL has invalid characters; allowed: ASCII without spaces and backslashes; percent-encode the rest."


def _is_name(text: str) -> bool:
    return bool(_NAME.fullmatch(text)) and not _NUMERIC.search(text)


def _is_public(address: IPv4Address | IPv6Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    return address in _GLOBAL_UNICAST and not any(address in network for network in _NOT_PUBLIC_V6)


def _literal(host: str) -> IPv4Address | IPv6Address | None:
    """Return `host` as an address; None for a name. Raises ForbiddenAddress for an address not in canonical form."""
    try:
        if host.startswith("["):
            if "%" in host:
                raise ValueError("an address with a zone is valid on one machine only")
            return IPv6Address(host[1:-1])
        return IPv4Address(host) if _NUMERIC.search(host) else None
    except ValueError:
        raise ForbiddenAddress(
            f"{host!r} is not an IP address in the usual form, such as 192.0.2.1 or [2001:db8::1]."
        ) from None


class _Cancellable:
    """A handle on the connection of an exchange, to shut it down from another thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._handle: socket.socket | None = None
        self._is_cut = False

    def hold(self, sock: socket.socket) -> None:
        """Duplicate the socket: TLS replaces it, and a TLS shutdown is not thread-safe."""
        with self._lock:
            if self._is_cut:
                raise TimeoutError
            self._handle = sock.dup()

    def cut(self) -> None:
        """Shut the connection down, now or as soon as it is open."""
        with self._lock:
            self._is_cut = True
            if self._handle:
                with suppress(OSError):  # closed by the other side
                    self._handle.shutdown(socket.SHUT_RDWR)
                self._handle.close()


class _Reader(io.BufferedReader):
    """A reader that limits the bytes of headers and rejects reads of unlimited size."""

    def __init__(self, raw: io.RawIOBase) -> None:
        super().__init__(raw)
        self.header_bytes_left: float = _MAX_HEADER_BYTES

    def readline(self, size: int | None = -1, /) -> bytes:
        line = super().readline(size)
        self.header_bytes_left -= len(line)
        if self.header_bytes_left < 0:
            raise http.client.HTTPException("headers that are too long")
        return line

    def read(self, size: int | None = -1, /) -> bytes:
        # http.client accepts a chunk size of -1, and would read until memory is full.
        if size is None or size < 0:
            raise http.client.HTTPException("a chunk of negative size")
        return super().read(size)


class _Response(http.client.HTTPResponse):
    """A response with bounded headers and an unambiguous length."""

    def begin(self) -> None:
        self.fp = reader = _Reader(self.fp.detach())
        super().begin()
        reader.header_bytes_left = float("inf")
        lengths = {length.strip() for length in self.headers.get_all("content-length", [])}
        if len(lengths) > 1 or not all(length.isdecimal() for length in lengths):
            raise http.client.HTTPException("no valid length or several")  # RFC 9112, section 6.3


class _Connection(HTTPConnection):
    """HTTP on a given socket: it never connects by itself."""

    auto_open = 0
    response_class = _Response


def _converse(sock: socket.socket, request: _Request) -> tuple[int, dict[str, str], bytes]:
    """Send the request, and read the answer up to its limit: status, headers, body."""
    connection = _Connection(request.target.host, request.target.port, timeout=sock.gettimeout())
    connection.sock = sock
    ours = {"Host": request.target.authority, "User-Agent": "srpo-farm", "Accept": "*/*", "Connection": "close"}
    # A server may answer before it has read everything; reading the response shows it.
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
    """Read the first `limit` bytes, or all there are. A truncated body raises."""
    body = bytearray()
    while len(body) < limit and (piece := response.read(min(_CHUNK_BYTES, limit - len(body)))):
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
            return _TIMED_OUT
        case ConnectionRefusedError():
            return "refuses the connection"
        case ConnectionError() | urllib3.exceptions.ProtocolError() | urllib3.exceptions.SSLError():
            return "closed the connection before its answer was whole"
        case OSError():
            return f"cannot be reached: {error.strerror}"
        case _:
            return "answers with what cannot be read as HTTP"
