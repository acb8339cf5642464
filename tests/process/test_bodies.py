"""Bodies that are cut off, too large or garbled in transit: refused in the dialect of their path, and no job."""

from __future__ import annotations

import http.client
import json
import socket
from contextlib import closing
from dataclasses import dataclass
from typing import Any

import pytest

from api.app import MAX_BODY
from tests.farms import RunningFarm

NATIVE, FAL, WAVESPEED = "/farm/v1/jobs", "/fal/queue/fal-ai/flux/srpo", "/api/v3/wavespeed-ai/flux-srpo"
GENERATIONS, EDITS = "/v1/images/generations", "/v1/images/edits"
PATHS = [NATIVE, FAL, WAVESPEED, GENERATIONS, EDITS, "/farm/v1/deliveries", "/api/v3/predictions"]
#: Those where no model takes images.
SMALL = [FAL, GENERATIONS, "/farm/v1/deliveries", "/api/v3/predictions"]

BODY = b'{"model": "srpo", "prompt": "x"}'
CHUNKED = b"Transfer-Encoding: chunked"


@dataclass(frozen=True, slots=True)
class RawAnswer:
    """An HTTP answer as received."""

    status: int
    head: bytes
    body: dict[str, Any]

    @property
    def text(self) -> str:
        return str(self.body.get("message") or self.body["detail"])


def send(farm: RunningFarm, path: str, header: bytes, body: bytes) -> RawAnswer:
    """Send a request with no more bytes than these."""
    with socket.create_connection(("127.0.0.1", farm.port), timeout=10) as connection:
        connection.sendall(b"POST %s HTTP/1.1\r\nHost: localhost\r\n%s\r\n\r\n%s" % (path.encode(), header, body))
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
    head, _, content = answer.partition(b"\r\n\r\n")
    return RawAnswer(int(head.split()[1]), head.lower(), json.loads(content))


def chunk(data: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(data), data)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("garbled", [b"ZZ\r\n", chunk(BODY) + b"1"])
def test_a_body_that_cannot_be_read_is_400_and_the_end(simulated: RunningFarm, path: str, garbled: bytes) -> None:
    result = send(simulated, path, CHUNKED, garbled)

    assert (result.status, b"connection: close" in result.head) == (400, True)
    assert "could not be read" in result.text or "cut off" in result.text
    assert ("error_code" in result.body, "title" in result.body) == ("/api/v3/" in path, "/farm/v1/" in path)


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("header", [b"Content-Length: 100", CHUNKED])
def test_a_body_that_is_cut_off_is_400(simulated: RunningFarm, path: str, header: bytes) -> None:
    result = send(simulated, path, header, chunk(BODY) if header == CHUNKED else BODY)

    assert result.status == 400
    assert "cut off" in result.text


@pytest.mark.parametrize("path", SMALL)
@pytest.mark.parametrize("more", [b" ", b" " * (MAX_BODY // 2)])
def test_a_body_whose_length_shows_late_may_not_be_larger(simulated: RunningFarm, path: str, more: bytes) -> None:
    whole = chunk(BODY.ljust(MAX_BODY)) + chunk(more) + b"0\r\n\r\n"

    assert send(simulated, path, CHUNKED, whole).status == 413


def test_a_body_in_chunks_is_read_up_to_the_limit(simulated: RunningFarm) -> None:
    body = BODY.replace(b'"model": "srpo", ', b"").ljust(MAX_BODY)

    assert send(simulated, FAL, CHUNKED, chunk(body) + b"0\r\n\r\n").status == 200


def test_a_body_in_chunks_may_hold_images_where_a_model_takes_them(simulated: RunningFarm) -> None:
    whole = chunk(BODY.ljust(MAX_BODY)) + chunk(b" " * MAX_BODY) + b"0\r\n\r\n"

    assert send(simulated, NATIVE, CHUNKED, whole).status == 202


def test_a_form_that_is_refused_is_read_to_its_end(simulated: RunningFarm) -> None:
    """Many clients send all that they have before they read an answer, and take a connection cut for an outage."""
    part = b"--x\r\nContent-Disposition: form-data; name=%s\r\n\r\n%s\r\n"
    form = part % (b"prompt", b"\xff") + part % (b"image", b"a" * 32 * MAX_BODY) + b"--x--"
    connection = http.client.HTTPConnection("127.0.0.1", simulated.port, timeout=30)

    with closing(connection):
        connection.request("POST", EDITS, form, {"Content-Type": "multipart/form-data; boundary=x"})
        response = connection.getresponse()

        assert (response.status, json.load(response)["error"]["param"]) == (400, "prompt")
