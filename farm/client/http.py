"""Calls over HTTP to one farm. Every failure is raised as one line that says what to do."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any
from urllib.parse import quote, urlencode

import urllib3

from farm.client.connection_errors import cause
from farm.domain.errors import FarmError

TIMEOUT = urllib3.Timeout(connect=5, read=60)
#: Connections that are kept, for as many threads.
_CONNECTIONS = 8
_KEY_ADVICE = "Set FARM_API_KEY, or `api_key` in Python; `farm keys create NAME` makes a key."
#: An idle stream has a comment every 15 s.
_STREAM_TIMEOUT = urllib3.Timeout(connect=5, read=30)
#: Retries of a poll: for about half a minute, or for as long as the farm's Retry-After says.
POLL_RETRIES = urllib3.Retry(
    8, backoff_factor=0.25, backoff_max=10, allowed_methods=["GET"], status_forcelist=[429, 503], raise_on_status=False
)


def escaped(name: str) -> str:
    """Return `name` as one segment of a path. Bytes of an argument that are not UTF-8 stay as they are."""
    return quote(name, safe="", errors="surrogateescape")


class CallFailed(FarmError):
    """The farm refused the call. `errors` holds one entry for each wrong field, as the API sends them."""

    def __init__(self, message: str, errors: Sequence[dict[str, Any]] = ()) -> None:
        super().__init__(message)
        self.errors = errors


class HttpClient:
    """Calls one farm with one API key. Thread-safe. Raises CallFailed for a key that cannot be one."""

    def __init__(self, url: str, api_key: str | None) -> None:
        if api_key and not (api_key.isascii() and api_key.isprintable()):
            raise CallFailed("The API key has characters that no API key has; copy it again.")
        self._base = url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {api_key}"} if api_key else {}
        self._http = urllib3.PoolManager(retries=False, timeout=TIMEOUT, maxsize=_CONNECTIONS)

    def get(self, path: str, **fields: str | int) -> dict[str, Any]:
        return self._call("GET", f"{path}?{urlencode(fields, errors='surrogateescape')}" if fields else path)

    def poll(self, path: str) -> dict[str, Any]:
        """Get `path`, and retry while the farm is unreachable or overloaded."""
        return self._call("GET", path, retries=POLL_RETRIES)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        # In ASCII, which can hold what UTF-8 cannot: the farm then names the field.
        return self._call("POST", path, body=json.dumps(body or {}))

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def events(self, path: str) -> Iterator[dict[str, Any]]:
        """Yield the data of the server-sent events of `path`, until the stream ends."""
        response = self._request(
            "GET", f"{self._base}/farm/v1{path}", headers=self._headers, preload_content=False, timeout=_STREAM_TIMEOUT
        )
        try:
            if response.status >= 400:
                raise self._refusal(response)
            for line in lines(response):
                if line.startswith(b"data: "):
                    yield json.loads(line.removeprefix(b"data: "))
        except urllib3.exceptions.HTTPError as error:
            raise CallFailed(cause(error, _origin(self._base))) from error
        finally:
            response.close()

    def download(self, url: str) -> bytes:
        """Return the bytes of an image. Sends no API key: the URL may lead to a bucket, which must not see it."""
        response = self._request("GET", url, retries=POLL_RETRIES)
        if response.status != 200:
            raise CallFailed(f"Cannot download {url}: status {response.status}.")
        return bytes(response.data)

    def metrics(self) -> str:
        """Return what the API tells Prometheus; nothing where a proxy keeps that from callers."""
        response = self._request("GET", f"{self._base}/metrics")
        return response.data.decode(errors="replace") if response.status == 200 else ""

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        headers = self._headers | ({"Content-Type": "application/json"} if "body" in options else {})
        response = self._request(method, f"{self._base}/farm/v1{path}", headers=headers, **options)
        if response.status >= 400:
            raise self._refusal(response)
        return self._decode(response)

    def _refusal(self, response: urllib3.BaseHTTPResponse) -> CallFailed:
        body = self._decode(response)
        message = body.get("detail", f"The farm answered with status {response.status}.")
        return CallFailed(str(message), body.get("errors", ()))

    def _request(self, method: str, url: str, **options: Any) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(method, url, **options)
        except urllib3.exceptions.HTTPError as error:
            raise CallFailed(cause(error, _origin(url))) from error

    def _decode(self, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        if not response.data:
            return {}
        try:
            body = json.loads(response.data)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise CallFailed(self._foreign(response))
        if response.status == 401:
            problem = "does not accept this API key" if self._headers else "asks for an API key"
            raise CallFailed(f"{self._base} {problem}. {_KEY_ADVICE}")
        return body

    def _foreign(self, response: urllib3.BaseHTTPResponse) -> str:
        """Return what an answer that is not the farm's own means, and what to do."""
        status, headers = response.status, response.headers
        if status in (401, 407):
            scheme = headers.get("WWW-Authenticate") or headers.get("Proxy-Authenticate") or "unknown scheme"
            return (
                f"A proxy in front of {self._base} asks for a login ({scheme}): status {status}. Use another FARM_URL."
            )
        if 300 <= status < 400 and (location := headers.get("Location")):
            return f"{self._base} redirects to {location}. Set FARM_URL to the farm's own address."
        if status in (502, 503, 504):
            return f"A proxy at {self._base} does not reach the farm: status {status}. Check that the farm runs."
        if status == 400 and self._base.startswith("http:") and b"HTTPS" in response.data:
            return f"{self._base} serves HTTPS. Begin FARM_URL with https://."
        return f"The server at {self._base} is not a farm: status {status}, no JSON object. Check FARM_URL."


def _origin(url: str) -> str:
    """Return scheme and authority of a URL: the rest may grant access."""
    scheme, _, rest = url.partition("://")
    return f"{scheme}://{rest.partition('/')[0].rpartition('@')[2]}"


def lines(response: urllib3.BaseHTTPResponse) -> Iterator[bytes]:
    """Yield the lines of a response as they arrive, without their ends."""
    rest = b""
    while piece := response.read1(65536):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole
    if rest:
        yield rest
