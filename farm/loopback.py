"""Loopback names and addresses: what they name is on this machine."""

from __future__ import annotations

import ipaddress
from urllib.parse import urlsplit


def is_loopback(host: str) -> bool:
    """Return True if this host name or address is a loopback one."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_at_loopback(url: str) -> bool:
    """Return True if the host of a URL is a loopback one: calls to it take no proxy."""
    return is_loopback(urlsplit(url).hostname or "")
