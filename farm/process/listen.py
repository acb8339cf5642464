"""The address on which the API listens."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from pathlib import Path

#: Addresses that stand for every address of this machine → one at which this machine reaches itself.
REACHED_AT = {"0.0.0.0": "127.0.0.1", "0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared with, not listened on
#: What to do about an address on which nothing can listen.
CHOOSE_ANOTHER = "choose another address with --host and --port"


@dataclass(frozen=True, slots=True)
class ListenAddress:
    """Host and port; with `tls` (certificate, private key) over HTTPS."""

    host: str
    port: int
    tls: tuple[Path, Path] | None = None

    def __str__(self) -> str:
        return f"{_in_url(self.host)}:{self.port}"

    @property
    def listening_url(self) -> str:
        """The address as a URL: it may stand for every address of this machine."""
        return f"{'https' if self.tls else 'http'}://{self}"

    @property
    def url(self) -> str:
        """The URL at which this machine reaches the API."""
        return reachable(self.listening_url)

    @property
    def options(self) -> list[str]:
        """The options of the command line that name it."""
        tls = ["--tls-cert", str(self.tls[0]), "--tls-key", str(self.tls[1])] if self.tls else []
        return ["--host", self.host, "--port", str(self.port), *tls]


def listening_error(host: str, port: int) -> OSError | None:
    """Return why nothing can listen on this address; None if something can."""
    if not host:  # for a socket it stands for every address, but no URL has such a host
        return socket.gaierror(socket.EAI_NONAME, "no host was named")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError as error:
            return error
        except (TypeError, ValueError):  # no host has a name of these characters, or of this length
            return socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return None


def reachable(url: str) -> str:
    """Return a URL of the API with an address that this machine can connect to."""
    for every, own in REACHED_AT.items():
        url = url.replace(f"//{_in_url(every)}:", f"//{_in_url(own)}:", 1)
    return url


def _in_url(host: str) -> str:
    return f"[{host}]" if ":" in host else host
