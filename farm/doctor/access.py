"""Check access: the port, the server that answers there, and API keys."""

from __future__ import annotations

import errno
import http.client
import json
import socket
import ssl
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from farm import clock
from farm.auth.api_keys import ApiKeyStore, refuse_without_keys, wants_keys
from farm.doctor.finding import Finding, Mark, good, note, refused, wrong
from farm.domain.errors import ConfigurationError
from farm.process.listen import CHOOSE_ANOTHER, REACHED_AT, listening_error
from farm.process.tls import check_tls, valid_until, validity_problem
from farm.settings import Settings

_DEFAULT = ("127.0.0.1", 8000)
#: Seconds to wait for an answer. A farm whose Redis hangs takes two of them.
_ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Address:
    """The address that the API listens on, or would."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str | None, port: int | None, base: str | None) -> Address:
        """Return the given address, else that of the farm's API (`base`), else the default."""
        known = urlsplit(base or "")
        if host is None and port is None and known.hostname:
            return cls(known.hostname, known.port or (443 if known.scheme == "https" else 80))
        return cls(_DEFAULT[0] if host is None else host, port or _DEFAULT[1])

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """The server at an address: a farm with its readiness, or another program.

    `detail`: why the farm is not ready, or what the other program is.
    """

    is_farm: bool
    status: int
    detail: str
    seconds: float


def ask(address: Address) -> Answer | None:
    """Return the server at an address, or None if nothing listens."""
    host = REACHED_AT.get(address.host, address.host)
    try:
        socket.create_connection((host, address.port), _ANSWER_SECONDS).close()
    except (OSError, TypeError, ValueError):  # of these, the latter for what cannot be the name of a host
        return None
    # Its certificate may be for another name than this address.
    unverified = ssl.create_default_context()
    unverified.check_hostname, unverified.verify_mode = False, ssl.CERT_NONE
    for connection in (
        http.client.HTTPConnection(host, address.port, timeout=_ANSWER_SECONDS),
        http.client.HTTPSConnection(host, address.port, timeout=_ANSWER_SECONDS, context=unverified),
    ):
        if answer := _answer(connection):
            return answer
    return Answer(is_farm=False, status=0, detail="a program that does not speak HTTP", seconds=0)


def tls(cert: Path | None, key: Path | None) -> Finding:
    """Check the certificate and the private key for HTTPS."""
    try:
        check_tls(cert, key)
    except ConfigurationError as error:
        return refused("TLS", str(error))
    assert cert is not None
    if problem := validity_problem(cert):
        return refused("TLS", problem, Mark.NOTE)
    return good("TLS", f"{cert} and its key, valid until {valid_until(cert):%Y-%m-%d}")


def port(address: Address, answer: Answer | None, *, is_ours: bool) -> Finding:
    """Check that the port is free or is this farm's."""
    if answer is None:
        return _free_or_not(address)
    if is_ours:
        return good("port", f"{address} belongs to this farm")
    who = "another farm" if answer.is_farm else answer.detail
    remedy = f"`ss -ltnp 'sport = :{address.port}'` shows its pid; stop it, or use --port"
    return wrong("port", f"{address} is used by {who}", remedy)


def api(address: Address, answer: Answer | None, base: str | None) -> Finding:
    """Check the API of a running farm. `base`: the address that it was started with."""
    if answer is None:
        text = f"nothing answers at {address}" + (f"; the API of this farm was started as {base}" if base else "")
        return wrong("API", text, "start one with farm api, or check another port with farm doctor --port N")
    if answer.status != http.client.OK:
        return wrong("API", f"not ready: {answer.detail}", "fix the problems above; it then becomes ready by itself")
    return good("API", f"ready, answers in {answer.seconds * 1e3:.0f} ms")


def urls(settings: Settings, host: str) -> Finding:
    """Check the base of the URLs that an API beyond loopback hands out."""
    if settings.public_url:
        return good("URLs", f"begin with {settings.public_url}")
    text = f"the API on {host} hands out URLs with the host name that each caller used"
    return note("URLs", text, "set FARM_PUBLIC_URL to the address that callers use, such as https://farm.example")


def keys(settings: Settings, host: str, callers: ApiKeyStore | None) -> Finding:
    """Check API keys. `callers`: None if Redis does not run."""
    if callers is None:
        text = f"required on {host}; they can be listed only while Redis runs"
        return note("keys", text, "farm keys list") if wants_keys(settings, host) else _none_needed(host)
    try:
        refuse_without_keys(settings, callers, host)
    except ConfigurationError as error:
        return refused("keys", str(error))
    if not wants_keys(settings, host):
        return _none_needed(host)
    count = len(callers.all())
    if count == 0:
        return wrong("keys", "FARM_AUTH=keys, but no API key exists", "farm keys create NAME")
    return good("keys", f"{count} valid")


def _none_needed(host: str) -> Finding:
    return good("keys", f"not required on {host}")


def _answer(connection: http.client.HTTPConnection) -> Answer | None:
    """Return the server behind a connection, or None if it speaks another protocol."""
    began = clock.monotonic()
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(4096)
    except TimeoutError:
        return Answer(is_farm=False, status=0, detail="a program that does not answer", seconds=_ANSWER_SECONDS)
    except (OSError, http.client.HTTPException):
        return None
    finally:
        connection.close()
    seconds = clock.monotonic() - began
    try:
        readiness = json.loads(body)
        is_farm = readiness["status"] in ("ready", "unready")
    except (ValueError, KeyError, TypeError):
        is_farm = False
    if not is_farm:
        return Answer(is_farm=False, status=response.status, detail=_name(response), seconds=seconds)
    return Answer(is_farm=True, status=response.status, detail=readiness.get("reason", ""), seconds=seconds)


def _name(response: http.client.HTTPResponse) -> str:
    server = response.getheader("Server", "")
    return f"a web server ({server})" if server.isprintable() and server else "a web server"


def _free_or_not(address: Address) -> Finding:
    error = listening_error(address.host, address.port)
    if error is None:
        return good("port", f"{address} is free")
    if error.errno == errno.EADDRNOTAVAIL:
        return note("port", f"{address.host} is not an address of this machine", "farm doctor --host")
    return wrong("port", f"cannot listen on {address}: {error.strerror}", CHOOSE_ANOTHER)
