"""The URL of a Redis, in the spelling of redis-py and in that of Celery's transport."""

from __future__ import annotations

import re
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import SplitResult, parse_qsl, quote, unquote, urlencode, urlsplit

from farm.domain.errors import ConfigurationError

#: The spellings of redis-py, which Celery's transport understands, too; and Celery's own.
_CERT_REQS = {"required", "optional", "none"}
_CELERY_PREFIX = "CERT_"
_SWITCH = {"true": "true", "1": "true", "yes": "true", "false": "false", "0": "false", "no": "false"}
_LOGIN = ("username", "password")
_TLS = (
    "ssl_cert_reqs",
    "ssl_check_hostname",
    "ssl_ca_certs",
    "ssl_ca_path",
    "ssl_certfile",
    "ssl_keyfile",
    "ssl_password",
)
#: The query parameters that the farm takes: both libraries understand them. It sets time limits itself.
PARAMETERS = ("db", *_LOGIN, *_TLS)
_FORMS = (
    "redis://user:password@host:port/0, rediss:// and unix://, with %2F, %3A and %40 for '/', ':' and '@' in a password"
)
_ONE_SERVER = "set it to the address of the primary, or of a proxy that follows the primary, such as HAProxy"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL that both libraries understand."""

    parts: SplitResult
    query: Mapping[str, str]

    @classmethod
    def parse(cls, url: str) -> RedisUrl:
        """Read a URL. Raises ConfigurationError, without a password, for what one of the libraries would not take."""
        try:
            parts = urlsplit(url)
            _check_server(parts)
            if parts.port == 0:  # raises ValueError if it is not a number
                raise ValueError("no server has this port, and the libraries take another one")
            (parts.hostname or "").encode("idna")  # raises UnicodeError, as a connection would
        except ValueError:
            raise _refusal("this is not a valid Redis URL", f"allowed: {_FORMS}") from None
        query = dict(parse_qsl(parts.query, keep_blank_values=True))
        _check_names(parts, query)
        found = cls(parts, query | _normal(query))
        _check_database(found)
        _check_files(query)
        return found

    @property
    def database(self) -> str:
        """The number of the database, as text."""
        in_path = "" if self.parts.scheme == "unix" else unquote(self.parts.path).strip("/")
        return self.query.get("db") or in_path or "0"

    def for_client(self) -> str:
        """Return the URL as redis-py spells it."""
        url = f"{self.parts.scheme}://{self.parts.netloc}{self.parts.path}"
        return f"{url}?{urlencode(self.query)}" if self.query else url

    def for_broker(self) -> str:
        """Return the URL as Celery's transport spells it, which takes no login and no database from the query."""
        if self.parts.scheme == "unix":
            database = "" if self.database == "0" else f"?virtual_host={self.database}"
            return f"redis+socket://{self._login()}{quote(unquote(self.parts.path))}{database}"
        tls = {name: value for name, value in self.query.items() if name in _TLS}
        if self.parts.scheme == "rediss":
            tls.setdefault("ssl_cert_reqs", "required")
        address = self.parts.netloc.rpartition("@")[2]
        url = f"{self.parts.scheme}://{self._login()}{address}/{self.database}"
        return f"{url}?{urlencode(tls)}" if tls else url

    def _login(self) -> str:
        user = unquote(self.parts.username or "") or self.query.get("username", "")
        password = unquote(self.parts.password or "") or self.query.get("password", "")
        return f"{quote(user, safe='')}:{quote(password, safe='')}@" if user or password else ""


def _refusal(problem: str, remedy: str) -> ConfigurationError:
    return ConfigurationError(f"FARM_REDIS_URL: {problem}; {remedy}")


def _check_server(parts: SplitResult) -> None:
    if "sentinel" in parts.scheme:
        raise _refusal("the farm does not ask a Sentinel for its primary", _ONE_SERVER)
    if parts.scheme not in ("redis", "rediss", "unix"):
        raise _refusal("this is not a valid Redis URL", f"allowed: {_FORMS}")
    if re.search("[,;]", parts.netloc.rpartition("@")[2]):
        raise _refusal("the farm uses one server, and this URL names several", _ONE_SERVER)
    if parts.scheme == "unix" and parts.netloc.rpartition("@")[2]:
        raise _refusal("the path of a socket begins with '/'", "write unix:///path/to/socket, with three slashes")
    if parts.fragment:
        raise _refusal("'#' ends a URL", "write %23 for it in a password")


def _check_names(parts: SplitResult, query: Mapping[str, str]) -> None:
    for name in query:
        if name not in PARAMETERS:
            raise _refusal(f"{name!r} is not a parameter that the farm takes", f"allowed: {', '.join(PARAMETERS)}")
        if name in _TLS and parts.scheme != "rediss":
            raise _refusal(f"{name} has no effect without TLS", "write rediss:// for a server with TLS, or remove it")


def _normal(query: Mapping[str, str]) -> dict[str, str]:
    """Return the values that the libraries spell differently, as both understand them."""
    normal: dict[str, str] = {}
    if (value := query.get("ssl_cert_reqs")) is not None:
        normal["ssl_cert_reqs"] = value.removeprefix(_CELERY_PREFIX).lower()
        if normal["ssl_cert_reqs"] not in _CERT_REQS:
            raise _refusal("this value of ssl_cert_reqs is unknown", "allowed: required, optional or none")
    if (value := query.get("ssl_check_hostname")) is not None:
        if value.lower() not in _SWITCH:
            raise _refusal("this value of ssl_check_hostname is unknown", "allowed: true or false")
        normal["ssl_check_hostname"] = _SWITCH[value.lower()]
    return normal


def _check_database(url: RedisUrl) -> None:
    if not re.fullmatch("[0-9]{1,9}", url.database):
        raise _refusal("its database is not a number", "end it with /0, or with the number of another database")


def _check_files(query: Mapping[str, str]) -> None:
    """Load the TLS files of a URL, if it names any, as the libraries will."""
    authorities = query.get("ssl_ca_certs"), query.get("ssl_ca_path")
    certificate, key = query.get("ssl_certfile"), query.get("ssl_keyfile")
    if not any((*authorities, certificate, key)):
        return
    # It loads the system's authorities, which takes 30 ms.
    context = ssl.create_default_context()
    try:
        if any(authorities):
            context.load_verify_locations(*authorities)
    except OSError as error:
        raise _refusal(f"ssl_ca_certs or ssl_ca_path cannot be used ({error.strerror})", "name PEM files") from None
    if key and not certificate:
        raise _refusal("ssl_keyfile needs the certificate of this key", "add ssl_certfile")
    try:
        if certificate:
            # Without a password OpenSSL would ask for one at the terminal.
            context.load_cert_chain(certificate, key, query.get("ssl_password", ""))
    except OSError as error:
        raise _refusal(f"ssl_certfile or ssl_keyfile cannot be used ({error.strerror})", "name PEM files") from None
