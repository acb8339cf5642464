"""Calls that fail because of a certificate, told with the remedy: OpenSSL's own text has none."""

from __future__ import annotations

import ssl
from collections.abc import Iterator
from dataclasses import dataclass

#: OpenSSL's codes of a server's certificate that is not valid yet, has expired, or is for another host name or address.
_NOT_YET_VALID, _EXPIRED, _OTHER_NAME = 9, 10, (62, 64)


@dataclass(frozen=True, slots=True)
class CertificateProblem:
    """The fault of a certificate, as the rest of a sentence that begins with it, and what to do."""

    text: str
    remedy: str


def certificate_problem(error: BaseException, *, setting: str, trust: str) -> CertificateProblem | None:
    """Return what is wrong with the server's certificate if a call failed because of it, else None.

    `setting` names the server, `trust` the file of authorities: both are for the remedies.
    """
    refusal = next((cause for cause in _causes(error) if isinstance(cause, ssl.SSLCertVerificationError)), None)
    if refusal is None:
        return None
    if refusal.verify_code == _EXPIRED:
        return CertificateProblem("has expired", "renew it")
    if refusal.verify_code == _NOT_YET_VALID:
        return CertificateProblem("is not valid yet", "check the clock of this machine, or replace the certificate")
    if refusal.verify_code in _OTHER_NAME:
        return CertificateProblem("is for another name", f"use a name of the certificate in {setting}")
    remedy = f"set {trust} to the PEM file of the authority that signed it"
    return CertificateProblem(f"is not trusted ({refusal.verify_message})", remedy)


def bucket_certificate_problem(error: BaseException) -> CertificateProblem | None:
    """Return what is wrong with a bucket's certificate, with boto3's variables in the remedy."""
    return certificate_problem(error, setting="AWS_ENDPOINT_URL", trust="AWS_CA_BUNDLE")


def _causes(error: BaseException) -> Iterator[BaseException]:
    """Yield an error and those that it was raised from, or wraps."""
    yield error
    wrapped = [item for item in error.args if isinstance(item, BaseException)]
    for cause in (*wrapped, error.__cause__ or error.__context__):
        if cause is not None:
            yield from _causes(cause)
