"""The certificate and private key of HTTPS, checked before anything listens."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509

from farm import clock
from farm.domain.errors import ConfigurationError


def check_tls(cert: Path | None, key: Path | None) -> None:
    """Raise ConfigurationError unless both files are given and a server can use them, or neither is given."""
    if cert and key:
        _check_readable("--tls-cert", cert)
        _check_readable("--tls-key", key)
        _load_certificates(cert)
        _load_pair(cert, key)
    elif cert or key:
        raise ConfigurationError("HTTPS needs both --tls-cert and --tls-key; add the other one")


def validity_problem(cert: Path) -> str | None:
    """Return what is wrong with the dates of a chain that `check_tls` accepts, or None: clients refuse it."""
    now = datetime.fromtimestamp(clock.now_us() / 1e6, UTC)
    for number, certificate in enumerate(_load_certificates(cert)):
        what = f"--tls-cert: {f'{certificate.subject.rfc4514_string()} in ' if number else ''}{cert}"
        if certificate.not_valid_after_utc <= now:
            return f"{what} expired on {certificate.not_valid_after_utc:%Y-%m-%d}, so clients refuse it; renew it"
        if certificate.not_valid_before_utc > now:
            return (
                f"{what} is not valid before {certificate.not_valid_before_utc:%Y-%m-%d %H:%M} UTC, so clients refuse "
                "it; check this machine's clock"
            )
    return None


def valid_until(cert: Path) -> datetime:
    """Return when the first certificate of a chain expires."""
    return min(certificate.not_valid_after_utc for certificate in _load_certificates(cert))


def _check_readable(option: str, path: Path) -> None:
    try:
        path.open("rb").close()
    except OSError as error:
        raise ConfigurationError(
            f"{option}: {path} cannot be read ({error.strerror}); name a file in PEM format that this user may read"
        ) from error


def _load_certificates(path: Path) -> list[x509.Certificate]:
    """Return the certificates of the file: the server's own one is the first."""
    try:
        return x509.load_pem_x509_certificates(path.read_bytes())
    except ValueError as error:
        raise ConfigurationError(
            f"--tls-cert: {path} holds no certificate in PEM format; it begins with -----BEGIN CERTIFICATE-----"
        ) from error


def _load_pair(cert: Path, key: Path) -> None:
    passphrases: list[str] = []

    def ask_for_passphrase() -> str:
        """Return a wrong passphrase: without this function OpenSSL would ask the terminal, and wait."""
        passphrases.append("")
        return ""

    try:
        ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER).load_cert_chain(cert, key, ask_for_passphrase)
    except (ssl.SSLError, ValueError) as error:
        if passphrases:
            raise ConfigurationError(
                f"--tls-key: {key} has a passphrase; remove it with openssl pkey -in {key} -out NEW-KEY"
            ) from error
        raise ConfigurationError(_pair_problem(error, cert, key)) from error


def _pair_problem(error: Exception, cert: Path, key: Path) -> str:
    reason = getattr(error, "reason", None) or str(error)
    if b"PRIVATE KEY-----" not in key.read_bytes():
        return f"--tls-key: {key} holds no private key in PEM format; it begins with -----BEGIN PRIVATE KEY-----"
    if "MISMATCH" in reason:
        return f"--tls-key: {key} is not the key of {cert}; give the key that this certificate was made for"
    if "KEY_TOO_SMALL" in reason or "MD_TOO_WEAK" in reason:
        return f"--tls-cert: {cert} is too weak ({reason}); make a new one"
    return f"--tls-key: {key} cannot be used with {cert} ({reason}); give the key that this certificate was made for"
