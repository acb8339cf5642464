"""The cause of a call that got no answer, in one line with its remedy."""

from __future__ import annotations

import ssl

from urllib3.exceptions import (
    ConnectTimeoutError,
    HTTPError,
    LocationValueError,
    MaxRetryError,
    NameResolutionError,
    NewConnectionError,
    ProtocolError,
    ReadTimeoutError,
    SSLError,
)

from farm.tls_errors import certificate_problem

#: OpenSSL's reasons for an answer that is not TLS.
_NOT_TLS = ("WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST", "UNKNOWN_PROTOCOL")


def cause(error: HTTPError, origin: str) -> str:
    """Return why `origin`, the scheme and authority of a URL, gave no answer, and what to do."""
    match error:
        case MaxRetryError(reason=HTTPError() as reason):
            return cause(reason, origin)
        case LocationValueError():
            return f"{origin} is not a valid URL. Check FARM_URL."
        case NameResolutionError():
            return f"The host name of {origin} cannot be resolved. Check FARM_URL and this machine's DNS."
        case NewConnectionError():
            return f"No farm answers at {origin}. Start one with `farm up`, or set FARM_URL to its address."
        case ConnectTimeoutError():
            return f"{origin} does not accept the connection in time. Check FARM_URL, firewalls and the network."
        case ReadTimeoutError():
            return f"{origin} accepted the call, but did not answer in time. Check the farm with `farm doctor`."
        case SSLError():
            return _tls_cause(error, origin)
        case ProtocolError() if origin.startswith("http:"):
            return f"{origin} gave no HTTP answer. If it serves HTTPS, begin FARM_URL with https://."
        case _:
            return f"{origin} closed the connection without a complete answer. Check the farm with `farm doctor`."


def _tls_cause(error: SSLError, origin: str) -> str:
    if problem := certificate_problem(error, setting="FARM_URL", trust="SSL_CERT_FILE"):
        return f"The certificate of {origin} {problem.text}. {problem.remedy[0].upper()}{problem.remedy[1:]}."
    reason = next((item for item in (*error.args, error.__cause__) if isinstance(item, ssl.SSLError)), None)
    if reason is not None and any(word in str(reason) for word in _NOT_TLS):
        return f"{origin} does not serve HTTPS. Begin FARM_URL with http://."
    return f"{origin} does not complete the TLS handshake: {reason or error}."
