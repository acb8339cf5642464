"""Clients that send malformed HTTP, or half of it, or nothing: refused, without effect on other clients.

Over TLS as without. Whatever comes is answered with a 4xx in JSON or with a closed connection.
"""

from __future__ import annotations

import gzip
import json
import resource
import socket
import ssl
import struct
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from api.connections.slow_client_socket import IO_TIMEOUT_SECONDS
from api.server import MAX_CONNECTIONS, THREADS
from tests.farms import Certificate, RunningFarm, pids, running_farm, wait_for

#: Its timing needs the machine for itself.
pytestmark = pytest.mark.alone

HOST = b"Host: localhost\r\n"
#: A submit by every way in.
NATIVE, FAL, WAVESPEED = b"/farm/v1/jobs", b"/fal/queue/fal-ai/flux/srpo", b"/api/v3/wavespeed-ai/flux-srpo"
SUBMITS = (NATIVE, FAL, WAVESPEED, b"/v1/images/generations", b"/v1/images/edits")
BODY = b'{"model": "srpo", "prompt": "x"}'
#: So much is read at once while a head is awaited, in bytes; over TLS, what comes in the same record is read with it.
AT_ONCE = 8192
#: As many as there are threads, and more.
MANY = THREADS + 80
#: A poll that takes longer is one that was starved; hostile callers may hold it up for a moment.
PATIENT_SECONDS = 60


def get(target: bytes, headers: bytes = HOST, version: bytes = b"HTTP/1.1", method: bytes = b"GET") -> bytes:
    return b"%s %s %s\r\n%s\r\n" % (method, target, version, headers)


def post(headers: bytes, body: bytes, path: bytes = NATIVE) -> bytes:
    return b"POST %s HTTP/1.1\r\n%s%s\r\n%s" % (path, HOST, headers, body)


def sized(body: bytes, headers: bytes = b"", path: bytes = NATIVE) -> bytes:
    return post(b"Content-Length: %d\r\n%s" % (len(body), headers), body, path)


def form(content: bytes, boundary: bytes = b"; boundary=x") -> tuple[bytes, bytes]:
    """Return a body, and the header that says what it is."""
    return content, b"Content-Type: multipart/form-data%s\r\n" % boundary


def part(name: bytes, content: bytes = b"a") -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name, content)


CHUNKED = b"Transfer-Encoding: chunked\r\n"
LAST = b"0\r\n\r\n"

#: What nobody may take for a request, or for this one.
HEADS = {
    "no host": get(b"/farm/v1/queue", b""),
    "two hosts": get(b"/farm/v1/queue", HOST + HOST),
    "an invalid host": get(b"/farm/v1/queue", b"Host: a b/c?d@e\r\n"),
    "another host in the target": get(b"http://evil.example/farm/v1/queue"),
    "an invalid target": get(b"http://[::1/farm"),
    "an authority": get(b"localhost:80"),
    "a tunnel": get(b"localhost:80", method=b"CONNECT"),
    "an asterisk": get(b"*", method=b"OPTIONS"),
    "an asterisk to get": get(b"*"),
    "HTTP/0.9": b"GET /farm/v1/queue\r\n\r\n",
    "HTTP/1.10": get(b"/farm/v1/queue", version=b"HTTP/1.10"),
    "HTTP/2 at once": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "HTTP/3.0": get(b"/", version=b"HTTP/3.0"),
    "a handshake": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
    "every byte": bytes(range(256)) + b"\r\n\r\n",
    "TRACE": get(b"/farm/v1/queue", method=b"TRACE"),
    "a method nobody knows": get(b"/farm/v1/queue", method=b"BREW"),
    "a small method": get(b"/farm/v1/queue", method=b"get"),
    "a long method": get(b"/farm/v1/queue", method=b"A" * 50),
    "NUL in the path": get(b"/farm\0/v1"),
    "letters beyond ASCII in the path": get("/farm/v1/jobs/é".encode()),
    "lines that end early": b"GET /farm/v1/queue HTTP/1.1\nHost: localhost\n\n",
    "a long target": get(b"/" + b"a" * 9000),
    "a target without an end": b"GET /" + b"a" * 100_000,
    "a long header": get(b"/farm/v1/queue", HOST + b"X: %s\r\n" % (b"a" * 9000)),
    "a header without an end": b"GET /farm/v1/queue HTTP/1.1\r\n%sX: %s" % (HOST, b"a" * 1_000_000),
    "many headers": get(b"/farm/v1/queue", HOST + b"".join(b"X%d: y\r\n" % number for number in range(200))),
    "a header without a colon": get(b"/farm/v1/queue", HOST + b"Authorization Bearer f0rb1dden\r\n"),
    "a header without a name": get(b"/farm/v1/queue", HOST + b": x\r\n"),
    "NUL in a header": get(b"/farm/v1/queue", HOST + b"X: a\0b\r\n"),
    "half a line end in a header": get(b"/farm/v1/queue", HOST + b"X: a\rb\r\n"),
    "a folded header": get(b"/farm/v1/queue", HOST + b"X: a\r\n b\r\n"),
    "an expectation": sized(BODY, b"Expect: 200-ok\r\n"),
    "two types": sized(BODY, b"Content-Type: a/b\r\nContent-Type: c/d\r\n"),
}

TOO_LONG = "an exabyte"
#: How long a body is said to be, in ways that two programs may understand in two ways.
LENGTHS = {
    "negative": post(b"Content-Length: -5\r\n", BODY),
    "with a sign": post(b"Content-Length: +5\r\n", BODY),
    "two": post(b"Content-Length: 5\r\nContent-Length: 6\r\n", BODY),
    "twice": post(b"Content-Length: 5\r\nContent-Length: 5\r\n", BODY),
    "a list": post(b"Content-Length: 5, 5\r\n", BODY),
    "hexadecimal": post(b"Content-Length: 0x10\r\n", BODY),
    "superscript": post(b"Content-Length: \xb2\r\n", BODY),
    "grouped": post(b"Content-Length: 1_0\r\n", BODY),
    "of 5000 digits": post(b"Content-Length: %s\r\n" % (b"9" * 5000), BODY),
    TOO_LONG: post(b"Content-Length: 999999999999999999\r\n", BODY),
    "and chunks": post(b"Content-Length: 5\r\n" + CHUNKED, LAST),
    "and chunks, the other way round": post(CHUNKED + b"Content-Length: 5\r\n", LAST),
    "no coding": post(b"Transfer-Encoding: smuggle\r\n", LAST),
    "nearly chunked": post(b"Transfer-Encoding: xchunked\r\n", LAST),
    "chunked behind a control character": post(b"Transfer-Encoding: \x0bchunked\r\n", LAST),
    "chunked behind a space": post(b"Transfer-Encoding : chunked\r\n", LAST),
    "chunked on the next line": post(b"Transfer-Encoding:\r\n chunked\r\n", LAST),
    "chunked twice": post(CHUNKED + CHUNKED, LAST),
    "chunked, then something": post(b"Transfer-Encoding: chunked, identity\r\n", LAST),
    "identity": post(b"Transfer-Encoding: identity\r\n", BODY),
    "packed, then chunked": post(b"Transfer-Encoding: gzip, chunked\r\n", b"5\r\n\x1f\x8b\0\0\0\r\n" + LAST),
    "chunks in HTTP/1.0": b"POST /farm/v1/jobs HTTP/1.0\r\n%s%s\r\n%s" % (HOST, CHUNKED, LAST),
    "a negative chunk": post(CHUNKED, b"-1\r\nx\r\n" + LAST),
    "a chunk whose line ends early": post(CHUNKED, b"5\nhello\r\n" + LAST),
    "an odd extension": post(CHUNKED, b'5;a="\n"\r\nhello\r\n' + LAST),
    "a length behind the chunks": post(CHUNKED, b"2\r\n{}\r\n0\r\nContent-Length: 3\r\n\r\n"),
}

#: Paths and queries that lead elsewhere, or nowhere.
TARGETS = [
    b"/files/%00",
    b"/files/../../etc/passwd",
    b"/files/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    b"/files/%c0%ae%c0%ae%c0%af",
    b"/files/a%0d%0aX:%20y",
    b"/docs/%2e%2e%2f%2e%2e%2fapp.py",
    b"/docs/a%00.js",
    b"/farm/v1/jobs/%00",
    b"/farm/v1/jobs/%ed%a0%80",
    b"/farm/v1/jobs/a%0d%0aX:%20y",
    b"/farm/v1/jobs/%zz%1",
    b"/fal/queue/%ed%a0%80/requests/%ff/status",
    b"/api/v3/predictions/%ed%a0%80",
    b"/v1/models/%ff%00",
    b"/farm/v1/jobs?limit=%ff%00&before=1e999&status=%ed%a0%80",
    b"/farm/v1/jobs?before=" + b"9" * 5000,
    b"/farm/v1/jobs?limit=%C2%B2",
    b"/" * 8000,
]

#: Bodies that are no JSON object, or no submit.
BODIES = {
    "latin-1": b'{"model": "srpo", "prompt": "\xe9"}',
    "half a pair": b'{"model": "srpo", "prompt": "\\ud800"}',
    "brackets": b"[" * 100_000,
    "braces": b'{"a":' * 100_000,
    "brackets in a field": b'{"model": "srpo", "prompt": %s}' % (b"[" * 900 + b"]" * 900),
    "an endless number": b'{"model": "srpo", "prompt": "x", "seed": 1e999}',
    "4000 digits": b'{"model": "srpo", "prompt": "x", "seed": %s}' % (b"9" * 4000),
    "5000 digits": b'{"model": "srpo", "prompt": "x", "seed": %s}' % (b"9" * 5000),
    "NaN": b'{"model": "srpo", "prompt": "x", "guidance_scale": NaN}',
    "infinity": b'{"model": "srpo", "prompt": "x", "guidance_scale": -Infinity}',
    "a field twice": b'{"model": "srpo", "prompt": "x", "prompt": "y"}',
    "nothing": b"",
    "null": b"null",
    "a list": b"[]",
    "a text": b'"x"',
    "UTF-16 cut off": b"\xff\xfe{",
}
#: And forms that are none, where forms are read and where they are not.
FORMS = {
    "no end": form(part(b"prompt").removesuffix(b"\r\n")),
    "no boundary": form(b"--x", b""),
    "a long boundary": form(b"--x", b"; boundary=" + b"x" * 5000),
    "many parts": form(b"".join(part(b"p%d" % number) for number in range(5000)) + b"--x--"),
    "a long head": form(part(b"a" * 500_000) + b"--x--"),
    "an odd head": form(b"--x\r\nContent-Disposition: \xff\xfe; name*=utf-8''%ff; =;;\r\n\r\na\r\n--x--"),
    "another coding": (b"prompt=x", b"Content-Type: application/x-www-form-urlencoded\r\n"),
    "packed": (gzip.compress(BODY), b"Content-Encoding: gzip\r\n"),
    "a bomb": (gzip.compress(bytes(50_000_000)), b"Content-Encoding: gzip\r\n"),
    "a long key": (BODY, b"Idempotency-Key: %s\r\n" % (b"k" * 300)),
}

REQUESTS = [
    *HEADS.values(),
    *LENGTHS.values(),
    *map(get, TARGETS),
    *(sized(body, path=path) for body in BODIES.values() for path in SUBMITS),
    *(sized(body, header, path) for body, header in FORMS.values() for path in SUBMITS),
]


class Site:
    """A farm as seen by a client that has only its address."""

    def __init__(self, farm: RunningFarm, certificate: Certificate | None) -> None:
        self.farm = farm
        self._tls = ssl.create_default_context(cafile=certificate.authority) if certificate else None
        self.is_safe = certificate is not None
        self.job = farm.submit(num_inference_steps=1)
        farm.wait_for_end(self.job)
        processes = pids(f"-m api --host 127.0.0.1 --port {farm.port}")
        (self.pid,) = [pid for pid in processes if _parent(pid) in processes]

    def plain(self) -> socket.socket:
        """Return a connection on which nothing has been sent, not even the beginning of a handshake."""
        return socket.create_connection(("127.0.0.1", self.farm.port), timeout=PATIENT_SECONDS)

    def connect(self) -> socket.socket:
        plain = self.plain()
        return self._tls.wrap_socket(plain, server_hostname="localhost") if self._tls else plain

    def poll(self) -> None:
        """Check that a well-behaved client gets its answer soon."""
        with self.connect() as connection:
            connection.sendall(get(b"/farm/v1/jobs/" + self.job.encode(), HOST + b"Connection: close\r\n"))
            (answer,) = received(connection)
        assert (answer.status, answer.body["status"]) == (200, "completed")

    @property
    def threads(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/task").iterdir()))

    @property
    def connections(self) -> int:
        """The number of connections that the farm has not closed: established, or closed by the client only."""
        end, open_states = f":{self.farm.port:04X}", ("01", "08")
        lines = [line.split() for line in Path(f"/proc/{self.pid}/net/tcp").read_text().splitlines()[1:]]
        return sum(words[1].endswith(end) and words[3] in open_states for words in lines)

    @property
    def times_it_hung_up(self) -> int:
        """The number of times that all threads were busy, and some clients were disconnected."""
        return self.farm.log.read_text().count("slow clients disconnected")

    @property
    def files(self) -> int:
        return len(list(Path(f"/proc/{self.pid}/fd").iterdir()))

    @property
    def megabytes(self) -> int:
        """The memory of the API."""
        words = Path(f"/proc/{self.pid}/status").read_text().split()
        return int(words[words.index("VmRSS:") + 1]) // 1024


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


@dataclass(frozen=True, slots=True)
class RawAnswer:
    status: int
    head: bytes
    body: dict[str, object]


def received(connection: socket.socket, maximum: int = 1) -> list[RawAnswer]:
    """Return so many answers, or as many as come before the connection ends."""
    result: list[RawAnswer] = []
    with connection.makefile("rb") as stream:
        while len(result) < maximum and (line := stream.readline()):
            head = b"".join([line, *iter(stream.readline, b"\r\n")]).lower()
            assert b"json" in head, head
            length = int(head.partition(b"content-length: ")[2].split(b"\r\n")[0])
            result.append(RawAnswer(int(line.split()[1]), head, json.loads(stream.read(length))))
    return result


@pytest.fixture(scope="module", params=["plain", "tls"])
def site(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    certificate = request.getfixturevalue("certificate") if request.param == "tls" else None
    folder = tmp_path_factory.mktemp(request.param)
    with running_farm(folder / "data", 1, certificate, FARM_SIMULATED_STEP_MS="0.1") as farm:
        yield Site(farm, certificate)
        log = farm.log.read_text()
        assert "Traceback" not in log, log[-3000:]
        assert "f0rb1dden" not in log


@pytest.fixture
def many_files() -> Iterator[None]:
    """Raise the limit on open files: each connection is one, at this end, too."""
    now, maximum = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (maximum, maximum))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (now, maximum))


def refusal(site: Site, request: bytes) -> RawAnswer:
    """Return the refusal of a request."""
    with site.connect() as connection:
        with suppress(OSError):  # refused before all of it was sent
            connection.sendall(request)
        (result,) = received(connection)
        return result


def test_an_invalid_request_is_refused_and_leaves_nothing_behind(site: Site) -> None:
    def send_all() -> None:
        for request in REQUESTS:
            result = refusal(site, request)
            assert 400 <= result.status < 500, (request[:200], result)
            assert result.body.get("detail") or result.body.get("message") or result.body.get("error"), result

    send_all()
    site.poll()
    before = site.megabytes, site.files, site.threads
    send_all()

    site.poll()
    wait_for(lambda: site.connections <= 1, what="closed connections")
    assert site.files < before[1] + 50
    assert site.threads < before[2] + 50
    assert site.megabytes < before[0] + 30


def test_a_request_behind_an_ambiguous_length_is_not_answered(site: Site) -> None:
    """A proxy in front may think that the second request is a part of the first one's body."""
    smuggled = get(b"/farm/v1/jobs/" + site.job.encode())
    for name, request in LENGTHS.items():
        if name == TOO_LONG:
            continue  # its end is not in doubt
        with site.connect() as connection:
            connection.sendall(request + smuggled)
            (result,) = received(connection, 2)
            assert b"connection: close" in result.head, name


def test_requests_that_come_at_once_are_answered_in_turn(site: Site) -> None:
    poll, submit = get(b"/farm/v1/jobs/" + site.job.encode()), sized(b"{}")
    long = sized(b"{}", b"X: %s\r\n" * 2 % ((b"a" * 4000,) * 2))
    long = long.replace(b"X: ", b"X: " + b"a" * (AT_ONCE - len(long)), 1)
    for requests, statuses in (((poll + submit) * 60, [200, 422] * 60), (long + poll, [422, 200])):
        with site.connect() as connection:
            connection.sendall(requests)

            assert [result.status for result in received(connection, len(statuses))] == statuses


def test_a_host_may_stand_in_the_target(site: Site) -> None:
    target = b"http://localhost/farm/v1/jobs/" + site.job.encode()
    with site.connect() as connection:
        connection.sendall(get(target, b"Host: evil.example\r\n"))

        assert [result.status for result in received(connection)] == [200]


def test_a_body_is_asked_for(site: Site) -> None:
    with site.connect() as connection:
        connection.sendall(post(b"Content-Length: %d\r\nExpect: 100-continue\r\n" % len(BODY), b""))
        assert connection.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        connection.sendall(BODY)

        assert [result.status for result in received(connection)] == [202]


def test_a_client_that_disconnects_at_any_byte_leaves_nothing_behind(site: Site) -> None:
    """Politely and not, after every few bytes."""
    requests = [sized(BODY, path=path) for path in SUBMITS] + [
        sized(*form(part(b"prompt") + b"--x--"), b"/v1/images/edits"),
        post(CHUNKED, b"20\r\n" + BODY + b"\r\n" + LAST),
        get(b"/farm/v1/events"),
        b"PUT /fal/cdn/files/upload HTTP/1.1\r\n%sContent-Length: 9\r\n\r\n123456789" % HOST,
    ]
    for number, request in enumerate(requests * 2):
        for end in range(number % 7, len(request), 13):
            with site.connect() as connection:
                connection.sendall(request[:end])
                if number < len(requests):
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    site.poll()
    wait_for(lambda: site.connections <= 1, what="closed connections")


def test_a_half_closed_connection_without_a_request_is_closed(site: Site) -> None:
    for request in (b"", b"GET /farm", get(b"/farm/v1/queue")[:-2]):
        with site.plain() as connection:
            connection.sendall(request)
            connection.shutdown(socket.SHUT_WR)
            with connection.makefile("rb") as stream:
                assert b"HTTP" not in stream.read()  # over TLS there may be an alert


def test_refused_clients_that_stay_connected_do_not_delay_others(site: Site) -> None:
    """The API waits two seconds for each client, and for all of them at once."""
    with crowd(site, b"GARBAGE\r\n\r\n", count=PATIENT_SECONDS, connect=site.connect):
        site.poll()


@contextmanager
def crowd(site: Site, word: bytes, *, count: int, connect: Callable[[], socket.socket]) -> Iterator[None]:
    """Open so many connections that send this, and then nothing."""
    with ExitStack() as stack:
        for _ in range(count):
            connection = stack.enter_context(connect())
            if word:
                connection.sendall(word)
        yield


@pytest.mark.usefixtures("many_files")
def test_silent_callers_hold_no_threads(site: Site) -> None:
    threads = site.threads
    with crowd(site, b"", count=MANY, connect=site.plain):
        for _ in range(5):
            site.poll()
        assert site.threads < threads + 100


@pytest.mark.usefixtures("many_files")
def test_clients_that_stop_in_the_middle_do_not_delay_others_for_long(site: Site) -> None:
    """More clients than threads stop in the middle of a handshake or of a head."""
    before = site.times_it_hung_up
    with crowd(site, b"\x16\x03\x01" if site.is_safe else b"GET / HT", count=MANY, connect=site.plain):
        for _ in range(5):
            site.poll()
        wait_for(lambda: site.times_it_hung_up > before, what="the end of some of them")


@pytest.mark.full
@pytest.mark.usefixtures("many_files")
def test_stalled_bodies_and_unread_answers_do_not_delay_others_for_long(site: Site) -> None:
    file = site.farm.call("POST", "/fal/cdn/files/upload", bytes(8_000_000), Content_Type="application/pdf")
    name = file.json["access_url"].removeprefix(site.farm.url).encode()
    for word in (post(b"Content-Length: 1000\r\n", b"{"), get(name)):
        with crowd(site, word, count=MANY, connect=site.connect):
            for _ in range(5):
                site.poll()
        wait_for(lambda: site.connections <= 1, seconds=60, what="closed connections")


@pytest.mark.full
@pytest.mark.usefixtures("many_files")
def test_more_connections_than_there_may_be_cost_the_most_silent_theirs(site: Site) -> None:
    with crowd(site, b"", count=MAX_CONNECTIONS + 500, connect=site.plain):
        for _ in range(5):
            site.poll()
        assert site.connections < MAX_CONNECTIONS + 100  # some wait in the kernel


@pytest.mark.full
@pytest.mark.parametrize("word", [b"\x16\x03\x01", b"GET / HTTP/1.1\r\nX: "])
def test_a_head_that_never_ends_is_given_up(site: Site, word: bytes) -> None:
    """A regular trickle of bytes does not extend its time."""
    with site.plain() as connection:
        connection.sendall(word)
        connection.settimeout(1)

        def is_over() -> bool:
            try:
                connection.sendall(b"a")
                return connection.recv(10) == b""
            except TimeoutError:
                return False
            except OSError:
                return True

        wait_for(is_over, seconds=3 * IO_TIMEOUT_SECONDS, what="the end of the connection")
