"""Calls that reach no farm: each cause is told in one line that says what to do."""

from __future__ import annotations

import http.client
import socket
from contextlib import ExitStack

import pytest
import urllib3

from tests.service.cli.commands import Runner
from tests.tls_server import DATES, Answering, Authority, server


def http_answer(status: int, body: str = "<html>", **headers: str) -> Answering:
    """Answer any request with HTML."""
    named = "".join(f"{name.replace('_', '-')}: {value}\r\n" for name, value in headers.items())
    reason = http.client.responses[status]
    text = f"HTTP/1.1 {status} {reason}\r\n{named}Content-Length: {len(body)}\r\nConnection: close\r\n\r\n{body}"

    def respond(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text.encode())

    return respond


def close(connection: socket.socket) -> None:
    """Read the request, and close the connection."""
    connection.recv(65536)


def hang(connection: socket.socket) -> None:
    """Answer nothing until the client gives up."""
    while connection.recv(65536):
        pass


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("authority"))


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("farm.client.http.TIMEOUT", urllib3.Timeout(connect=0.5, read=0.5))


HTTP_ANSWERS = {
    "asks for a login (Basic realm=x): status 401": http_answer(401, WWW_Authenticate="Basic realm=x"),
    "asks for a login (Negotiate): status 407": http_answer(407, Proxy_Authenticate="Negotiate"),
    "redirects to https://a.example/login.": http_answer(302, Location="https://a.example/login"),
    "does not reach the farm: status 502": http_answer(502),
    "does not reach the farm: status 504": http_answer(504),
    "serves HTTPS. Begin FARM_URL with https://.": http_answer(400, "plain HTTP request was sent to HTTPS port"),
    "is not a farm: status 200": http_answer(200),
    "gave no HTTP answer. If it serves HTTPS, begin FARM_URL with https://.": close,
    "did not answer in time": hang,
}


@pytest.mark.parametrize("cause", HTTP_ANSWERS)
def test_a_server_that_is_not_a_farm_is_reported(run: Runner, cause: str) -> None:
    with server(HTTP_ANSWERS[cause]) as port:
        assert cause in line_of(run, f"http://127.0.0.1:{port}")


def line_of(run: Runner, url: str) -> str:
    """Return the only line of `farm jobs` at a URL, which must name it."""
    ended = run.at(url)("jobs")
    assert (ended.status, ended.out, ended.err.count("\n")) == (1, "", 1)
    assert url in ended.err
    return ended.err


def test_an_untrusted_authority_is_reported_with_the_remedy(
    run: Runner, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    with server(http_answer(200), authority.context("127.0.0.1")) as port:
        url = f"https://127.0.0.1:{port}"
        assert "is not trusted (" in line_of(run, url)
        assert "Set SSL_CERT_FILE to the PEM file" in line_of(run, url)

        monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))
        assert "is not a farm: status 200" in line_of(run, url)


@pytest.mark.parametrize("name", ["farm.example", "127.0.0.2"])
def test_a_certificate_for_another_name_is_reported(
    run: Runner, authority: Authority, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

    with server(http_answer(200), authority.context(name)) as port:
        assert "is for another name" in line_of(run, f"https://127.0.0.1:{port}")


@pytest.mark.parametrize("dates", DATES)
def test_the_wrong_dates_of_a_certificate_are_reported(
    run: Runner, authority: Authority, monkeypatch: pytest.MonkeyPatch, dates: str
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.file))

    with server(close, authority.context("127.0.0.1", **DATES[dates])) as port:
        line = line_of(run, f"https://127.0.0.1:{port}")

    assert f"The certificate of https://127.0.0.1:{port} {dates}." in line
    assert "authority" not in line


def test_https_at_a_port_of_http_is_reported(run: Runner) -> None:
    with server(http_answer(400)) as port:
        assert "does not serve HTTPS. Begin FARM_URL with http://." in line_of(run, f"https://127.0.0.1:{port}")


def test_http_at_a_port_of_https_is_reported(run: Runner, authority: Authority) -> None:
    with server(close, authority.context("127.0.0.1")) as port:
        assert "If it serves HTTPS, begin FARM_URL with https://." in line_of(run, f"http://127.0.0.1:{port}")


@pytest.mark.parametrize(
    ("url", "cause"),
    [
        ("http://127.0.0.1:1", "No farm answers at"),
        ("http://farm.invalid", "cannot be resolved"),
        ("http://[::1", "is not a valid URL"),
    ],
)
def test_an_address_without_a_server_is_reported(run: Runner, url: str, cause: str) -> None:
    assert cause in line_of(run, url)


def test_an_address_that_accepts_no_connection_is_reported(run: Runner) -> None:
    """The queue of connections is full: the next one is not answered at all."""
    with socket.create_server(("127.0.0.1", 0), backlog=0) as listener, ExitStack() as stack:
        for _ in range(2):
            waiting = stack.enter_context(socket.socket())
            waiting.setblocking(False)
            waiting.connect_ex(listener.getsockname())
        assert "does not accept the connection in time" in line_of(run, f"http://127.0.0.1:{listener.getsockname()[1]}")
