"""Calls of OpenAI's files and batches at the farm of FARM_URL."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

import urllib3

from farm.cli.client import CallFailed, Client
from farm.client.http import POLL_RETRIES, lines
from farm.domain.bulk import Endpoint
from farm.domain.catalogue import MAX_BULK_SECONDS

#: The time that a batch may take.
_WINDOW = f"{MAX_BULK_SECONDS // 86400}d"


class BatchClient(Client):
    """Uploads files of requests, creates batches and reads their results."""

    def upload(self, content: bytes) -> str:
        """Upload a file of requests, and return its id."""
        fields = {"purpose": "batch", "file": ("requests.jsonl", content, "application/jsonl")}
        file_id: str = self._v1("POST", "/files", fields=fields)["id"]
        return file_id

    def create(self, file_id: str, endpoint: Endpoint, *, key: str) -> dict[str, Any]:
        """Create a batch, or return the one that was created with this Idempotency-Key."""
        body = {"input_file_id": file_id, "endpoint": endpoint, "completion_window": _WINDOW}
        return self._v1("POST", "/batches", json=body, headers={"Idempotency-Key": key})

    def batch(self, batch_id: str) -> dict[str, Any] | None:
        """Return a batch, while the farm is unreachable by trying again; None if it knows no such batch."""
        response = self._request(
            "GET", f"{self._base}/v1/batches/{batch_id}", headers=self._headers, retries=POLL_RETRIES
        )
        return None if response.status == 404 else self._answer(response)

    def cancel(self, batch_id: str) -> None:
        self._v1("POST", f"/batches/{batch_id}/cancel")

    def results(self, batch: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
        """Yield the lines of both result files of a batch."""
        for name in ("output_file_id", "error_file_id"):
            if file_id := batch[name]:
                yield from self._lines(file_id)

    def _lines(self, file_id: str) -> Iterator[dict[str, Any]]:
        url = f"{self._base}/v1/files/{file_id}/content"
        response = self._request("GET", url, headers=self._headers, preload_content=False, retries=POLL_RETRIES)
        try:
            if response.status >= 400:
                self._answer(response)
            for line in lines(response):
                yield json.loads(line)
        finally:
            response.close()

    def _v1(
        self, method: str, path: str, *, headers: Mapping[str, str] | None = None, **options: Any
    ) -> dict[str, Any]:
        sent = {**self._headers, **(headers or {})}
        return self._answer(self._request(method, f"{self._base}/v1{path}", headers=sent, **options))

    def _answer(self, response: urllib3.BaseHTTPResponse) -> dict[str, Any]:
        body = self._decode(response)
        if response.status >= 400:
            message = body.get("message", f"The farm answered with status {response.status}.")
            raise CallFailed(str(message))
        return body
