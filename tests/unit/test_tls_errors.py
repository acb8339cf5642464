"""Certificates of servers that the farm calls: each problem is one line with its remedy."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest

from farm.bootstrap import say_if_storage_fails
from farm.doctor import storage as doctor
from farm.domain.errors import ConfigurationError, StorageRefused, Unreachable
from farm.jobstore.connection import check, connect
from farm.settings import Settings
from farm.ssrf_safe_http import SsrfSafeClient
from farm.storage.probe import Inconsistent
from farm.storage.s3 import Bucket, S3Storage
from tests.tls_server import DATES, Authority, server

REMEDIES = {"has expired": "renew it", "is not valid yet": "check the clock of this machine"}


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


def silent(connection: socket.socket) -> None:
    """Close the connection."""


def certificate(authority: Authority, problem: str) -> ssl.SSLContext:
    """Return the TLS of a server whose certificate has this problem."""
    if problem in DATES:
        return authority.context("localhost", **DATES[problem])
    return authority.context("other.example")


@pytest.mark.parametrize(
    ("problem", "remedy"), [*REMEDIES.items(), ("is for another name", "use a name of the certificate in FARM_REDIS_")]
)
def test_a_certificate_of_redis_stops_the_start(authority: Authority, problem: str, remedy: str) -> None:
    with (
        server(silent, certificate(authority, problem)) as port,
        pytest.raises(ConfigurationError, match=rf"FARM_REDIS_URL: the certificate of Redis {problem}; {remedy}"),
    ):
        check(connect(f"rediss://localhost:{port}/0?ssl_ca_certs={authority.file}"), unsafe=True)


def test_an_authority_that_is_not_trusted_stops_the_start(authority: Authority) -> None:
    with (
        server(silent, authority.context("localhost")) as port,
        pytest.raises(ConfigurationError, match=r"Redis is not trusted \(.*\); set its ssl_ca_certs to the PEM file"),
    ):
        check(connect(f"rediss://localhost:{port}/0"), unsafe=True)


@pytest.fixture
def bucket(monkeypatch: pytest.MonkeyPatch, authority: Authority) -> Bucket:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "key")
    monkeypatch.setenv("AWS_CA_BUNDLE", str(authority.file))
    return Bucket.at("s3://images")


@pytest.mark.parametrize(("problem", "remedy"), REMEDIES.items())
def test_a_certificate_of_the_store_stops_the_start_and_the_doctor_has_the_remedy(
    bucket: Bucket, authority: Authority, monkeypatch: pytest.MonkeyPatch, problem: str, remedy: str
) -> None:
    with server(silent, certificate(authority, problem)) as port:
        monkeypatch.setenv("AWS_ENDPOINT_URL", f"https://localhost:{port}")
        with pytest.raises(ConfigurationError, match=rf"certificate of the bucket 'images' {problem}\)") as refused:
            say_if_storage_fails(S3Storage(bucket))
        (finding,) = doctor.storage(Settings(storage_url="s3://images"), Path())
        with pytest.raises(StorageRefused):  # by which a job waits, as for any fault of the storage
            S3Storage(bucket).read("image")

    assert "\n" not in str(refused.value)
    assert (problem in finding.text, finding.remedy.startswith(remedy)) == (True, True)


@pytest.mark.parametrize("problem", DATES)
def test_a_bad_certificate_of_signed_urls_is_reported(
    bucket: Bucket, authority: Authority, monkeypatch: pytest.MonkeyPatch, problem: str
) -> None:
    with (
        server(silent, certificate(authority, problem)) as port,
        pytest.raises(Inconsistent, match=f"their certificate {problem}"),
    ):
        doctor.fetch(f"https://localhost:{port}/image")


@pytest.mark.parametrize(("problem", "words"), [("has expired", "has expired"), ("is not valid yet", "not yet valid")])
def test_a_bad_certificate_of_a_receiver_or_image_host_is_reported(
    authority: Authority, monkeypatch: pytest.MonkeyPatch, problem: str, words: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
    client = SsrfSafeClient(frozenset({"localhost"}))
    with server(silent, certificate(authority, problem)) as port:
        with pytest.raises(Unreachable, match=f"localhost shows a certificate .*{words}"):
            client.post(f"https://localhost:{port}/hook", b"{}", {})
        with pytest.raises(Unreachable, match=f"localhost shows a certificate .*{words}"):
            client.get(f"https://localhost:{port}/image", limit=10)
