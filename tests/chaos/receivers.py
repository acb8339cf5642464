"""Webhook receivers, with an address for each caller and request. They misbehave at random, and record what comes."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from typing import Any

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

from tests.chaos.records import Observations, ReceivedWebhook
from tests.webhook_receiver import Behaviour, Server, answer, close_early
from tests.webhook_verification import is_from_fal, is_from_wavespeed

#: The behaviours of a receiver, and their weights.
_MOODS: Mapping[str, int] = {"well": 78, "error": 8, "busy": 4, "closing": 5, "hanging": 3, "taking it": 2}
#: Seconds for which a receiver hangs.
_HANGS = 2.0


@dataclass(frozen=True, slots=True)
class Signatures:
    """The keys that verify webhooks: the secret of each caller, and the farm's public keys for fal's."""

    secrets: Mapping[str, str]
    jwks: Mapping[str, Any]

    def is_genuine(self, caller: str, headers: Mapping[str, str], body: bytes) -> bool:
        if "x-fal-webhook-signature" in headers:
            return is_from_fal(self.jwks, headers, body)
        if headers.get("webhook-signature", "").startswith("v3,"):
            return is_from_wavespeed(self.secrets[caller], headers, body)
        try:
            Webhook(self.secrets[caller]).verify(body, dict(headers))
        except WebhookVerificationError:
            return False
        return True


class Receivers:
    """The receivers of all callers, on one port."""

    def __init__(self, observations: Observations, signatures: Signatures, *, seed: int, moody: bool) -> None:
        self._observations = observations
        self._signatures = signatures
        self._dice = random.Random(f"receivers {seed}")
        self._is_moody = moody
        self._is_down = threading.Event()
        self._closing = threading.Event()
        self._server = Server(self._handler())

    def __enter__(self) -> Receivers:
        self._server.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closing.set()
        self._server.stop()

    def address(self, caller: str, ask: int) -> str:
        return f"{self._server.url}/{caller}/{ask}"

    def go_down(self) -> None:
        """Close every connection."""
        self._is_down.set()

    def come_up(self) -> None:
        self._is_down.clear()

    def calm(self) -> None:
        """Misbehave no longer."""
        self._is_moody = False
        self.come_up()

    def _mood(self) -> str:
        if self._is_down.is_set():
            return "closing"
        return self._dice.choices(list(_MOODS), list(_MOODS.values()))[0] if self._is_moody else "well"

    def _behaviour(self, mood: str) -> tuple[int, Behaviour]:
        """Return the status that the farm gets (0 for none), and the manner of the answer."""
        match mood:
            case "well":
                return 200, answer(200)
            case "error":
                return 500, answer(500)
            case "busy":
                return 429, answer(429, Retry_After="1")
            case "hanging":
                return 0, self._hang
            case _:
                return 0, close_early

    def _hang(self, request: BaseHTTPRequestHandler) -> None:
        self._closing.wait(_HANGS)
        close_early(request)

    def _webhook(self, path: str, headers: Mapping[str, str], body: bytes, answered: int) -> ReceivedWebhook:
        _, caller, ask = path.split("/")
        genuine = self._signatures.is_genuine(caller, headers, body)
        job, event, state, event_id, images = _read(headers, json.loads(body))
        names = tuple(url.rpartition("/")[2] for url in images)
        return ReceivedWebhook(caller, int(ask), time.time(), answered, job, event, state, event_id, genuine, names)

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        receivers = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                mood = receivers._mood()
                answered, behave = receivers._behaviour(mood)
                if mood != "closing":
                    body = self.rfile.read(int(self.headers["Content-Length"]))
                    headers = {name.lower(): value for name, value in self.headers.items()}
                    receivers._observations.webhooks.append(receivers._webhook(self.path, headers, body, answered))
                behave(self)

            def log_message(self, *_: Any) -> None:
                """Log nothing."""

        return Handler


def _read(headers: Mapping[str, str], body: Mapping[str, Any]) -> tuple[str, str, str, str, list[str]]:
    """Return job, event, state, event id and image URLs of a webhook in any dialect."""
    if "x-fal-webhook-request-id" in headers:
        state = "completed" if body["status"] == "OK" else "failed"
        images = [image["url"] for image in (body["payload"] or {}).get("images", ())]
        return body["request_id"], "end", state, headers["x-fal-webhook-request-id"], images
    if "type" in body:
        data = body["data"]
        state = body["type"].removeprefix("job.")
        event = "end" if state in ("completed", "failed") else f"{state} {body['sequence']}"
        return data["id"], event, state, headers["webhook-id"], [image["url"] for image in data["images"]]
    return body["id"], "end", body["status"], headers["webhook-id"], body["outputs"]
