"""The way in: the port, who answers there, and whether callers need keys that nobody has."""

from __future__ import annotations

import errno
import http.client
import json
import os
import socket
import ssl
from dataclasses import dataclass
from urllib.parse import urlsplit

from farm import clock
from farm.auth.api_keys import Callers, refuse_open_door, wants_keys
from farm.doctor.finding import Finding, good, note, refused, wrong
from farm.domain.errors import ConfigurationError
from farm.settings import Settings

_DEFAULT = ("127.0.0.1", 8000)
#: What to call to reach what listens on every address.
_UNSPECIFIED = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # nothing listens here
#: Seconds that an answer may take. A farm whose Redis hangs takes two of them to say so.
_ANSWER_SECONDS = 3.0


@dataclass(frozen=True, slots=True)
class Address:
    """Where the API listens, or would."""

    host: str
    port: int

    @classmethod
    def of(cls, host: str | None, port: int | None, base: str | None) -> Address:
        """What is asked for, else where this farm's API says that it listens (`base`), else the usual place."""
        told = urlsplit(base or "")
        if host is None and port is None and told.hostname:
            return cls(told.hostname, told.port or (443 if told.scheme == "https" else 80))
        return cls(host or _DEFAULT[0], port or _DEFAULT[1])

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Answer:
    """Who answers at an address: a farm, with the status and the reason of its readiness, or somebody else."""

    is_farm: bool
    status: int
    told: str
    seconds: float


def ask(address: Address) -> Answer | None:
    """Who answers there; None: nobody."""
    host = _UNSPECIFIED.get(address.host, address.host)
    try:
        socket.create_connection((host, address.port), _ANSWER_SECONDS).close()
    except OSError:
        return None
    # Only who it is: its certificate may be for another name than this one.
    anybody = ssl.create_default_context()
    anybody.check_hostname, anybody.verify_mode = False, ssl.CERT_NONE
    for connection in (
        http.client.HTTPConnection(host, address.port, timeout=_ANSWER_SECONDS),
        http.client.HTTPSConnection(host, address.port, timeout=_ANSWER_SECONDS, context=anybody),
    ):
        if answer := _answer(connection):
            return answer
    return Answer(is_farm=False, status=0, told="a program that speaks no HTTP", seconds=0)


def port(address: Address, answer: Answer | None, *, is_ours: bool) -> Finding:
    if answer is None:
        return _free_or_not(address)
    if is_ours:
        return good("port", f"{address} is this farm's")
    who = "another farm" if answer.is_farm else answer.told
    remedy = f"`ss -ltnp 'sport = :{address.port}'` shows its pid; stop it, or use --port"
    return wrong("port", f"{address} is taken by {who}", remedy)


def api(address: Address, answer: Answer | None, base: str | None) -> Finding:
    """The API of a farm that runs, at the address that should be its own; `base`: what it said when it started."""
    if answer is None:
        text = f"nothing answers at {address}" + (f"; this farm's was started as {base}" if base else "")
        return wrong("API", text, "farm api starts one; farm doctor --port N looks at another port")
    if answer.status != http.client.OK:
        return wrong("API", f"not ready: {answer.told}", "mend what is wrong above; it is ready by itself then")
    return good("API", f"ready, answers in {answer.seconds * 1e3:.0f} ms")


def keys(settings: Settings, host: str, callers: Callers | None) -> Finding:
    """`callers`: None where no Redis can be asked."""
    if callers is None:
        text = f"callers of {host} need them; which there are is known only while the farm's Redis runs"
        return note("keys", text, "farm keys list") if wants_keys(settings, host) else _none_needed(host)
    try:
        refuse_open_door(settings, callers, host)
    except ConfigurationError as error:
        return refused("keys", str(error))
    if not wants_keys(settings, host):
        return _none_needed(host)
    count = len(callers.all())
    if count == 0:
        return wrong("keys", "FARM_AUTH=keys, but no API key exists, so nobody can call", "farm keys create NAME")
    return good("keys", f"{count} valid")


def _none_needed(host: str) -> Finding:
    return good("keys", f"none needed: {host} is this machine's own")


def _answer(connection: http.client.HTTPConnection) -> Answer | None:
    """Who answers; None: what is said there is another protocol."""
    began = clock.monotonic()
    try:
        connection.request("GET", "/readyz")
        response = connection.getresponse()
        body = response.read(4096)
    except TimeoutError:
        return Answer(is_farm=False, status=0, told="a program that does not answer", seconds=_ANSWER_SECONDS)
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
        return Answer(is_farm=False, status=response.status, told=_name(response), seconds=seconds)
    return Answer(is_farm=True, status=response.status, told=readiness.get("reason", ""), seconds=seconds)


def _name(response: http.client.HTTPResponse) -> str:
    server = response.getheader("Server", "")
    return f"a web server ({server})" if server.isprintable() and server else "a web server"


def _free_or_not(address: Address) -> Finding:
    family = socket.AF_INET6 if ":" in address.host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((address.host, address.port))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return note("port", f"{address.host} is no address of this machine", "farm doctor --host")
            reason = os.strerror(error.errno or 0)
            return wrong("port", f"{address} cannot be used: {reason}", "choose another with --host and --port")
    return good("port", f"{address} is free")
