"""The client commands' way to a farm: HTTP to FARM_URL, errors as one line."""

from __future__ import annotations

import json
from typing import Any

import urllib3

from farm.domain.errors import FarmError
from farm.settings import Settings

#: How a caller is tried again that must not lose sight of its job: for about half a minute, or as the farm says.
_PATIENTLY = urllib3.Retry(
    8, backoff_factor=0.25, backoff_max=10, allowed_methods=["GET"], status_forcelist=[429, 503], raise_on_status=False
)


class CallFailed(FarmError):
    """The farm refused the call."""


class Client:
    """Calls one farm with one key."""

    def __init__(self, settings: Settings) -> None:
        self._base = settings.url.rstrip("/")
        self._headers = {"Authorization": f"Bearer {settings.api_key}"} if settings.api_key else {}
        self._http = urllib3.PoolManager(retries=False, timeout=urllib3.Timeout(connect=5, read=60))

    def get(self, path: str, **fields: str | int) -> dict[str, Any]:
        return self._call("GET", path, fields=fields)

    def watch(self, path: str) -> dict[str, Any]:
        """As `get`, and outlasts a farm that is away for a moment."""
        return self._call("GET", path, retries=_PATIENTLY)

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return self._call("POST", path, json=body or {})

    def delete(self, path: str) -> None:
        self._call("DELETE", path)

    def download(self, url: str) -> bytes:
        """The bytes behind the URL of a picture. It takes no key, which is none of a bucket's business."""
        response = self._request("GET", url, retries=_PATIENTLY)
        if response.status != 200:
            raise CallFailed(f"{url} answered {response.status}")
        return bytes(response.data)

    def _call(self, method: str, path: str, **options: Any) -> dict[str, Any]:
        response = self._request(method, f"{self._base}/farm/v1{path}", headers=self._headers, **options)
        body = self._decode(response)
        if response.status >= 400:
            raise CallFailed(str(body.get("detail", f"The farm answered {response.status}.")))
        return body

    def _request(self, method: str, url: str, **options: Any) -> urllib3.BaseHTTPResponse:
        try:
            return self._http.request(method, url, **options)
        except urllib3.exceptions.HTTPError as error:
            raise CallFailed(
                f"Nothing answers at {self._base}; start a farm with `farm up`, or set FARM_URL"
            ) from error

    def _decode(self, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        if not response.data:
            return {}
        try:
            body = json.loads(response.data)
        except ValueError:
            body = None
        if not isinstance(body, dict):
            raise CallFailed(f"What answers at {self._base} is no farm: status {response.status}, no JSON object")
        return body
