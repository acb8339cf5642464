"""The farm that the commands call: the one at FARM_URL."""

from __future__ import annotations

from farm.client.http import CallFailed, HttpClient, escaped
from farm.settings import Settings

__all__ = ["CallFailed", "Client", "escaped"]


class Client(HttpClient):
    """Calls the farm at FARM_URL with FARM_API_KEY."""

    def __init__(self, settings: Settings) -> None:
        super().__init__(settings.url, settings.api_key)
