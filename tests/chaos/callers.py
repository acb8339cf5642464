"""Calls and answers of each dialect: the minimum that a client of it does."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol
from urllib.parse import quote

from tests.chaos.records import ENDS, UNKNOWN, UNTOLD
from tests.chaos.requests import Ask
from tests.farms import Answer
from tests.images import data_uri


@dataclass(frozen=True, slots=True)
class Call:
    """One request to the farm. `path` has its query."""

    method: str
    path: str
    body: Mapping[str, Any] | bytes | None = None
    headers: Mapping[str, str] = field(default_factory=dict)

    @property
    def content(self) -> bytes | None:
        return self.body if isinstance(self.body, bytes | None) else json.dumps(self.body).encode()


@dataclass(frozen=True, slots=True)
class JobView:
    """The state of a job in an answer. `images` are URLs, data URIs or bare base64; `prompt` is the rendered one."""

    job: str
    state: str
    images: tuple[str, ...] = ()
    prompt: str = ""
    code: str = ""
    started: float = 0.0

    @property
    def has_ended(self) -> bool:
        return self.state in ENDS


class Way(Protocol):
    """A dialect, as its client uses it."""

    def submit(self, ask: Ask, *, image: str, hook: str) -> Call:
        """Return the submit. `image` is the URL of the input, `hook` that of the receiver; empty: none."""

    def submitted(self, ask: Ask, answer: Answer) -> JobView | None:
        """Return the result of a submit; None if it was not accepted, and may be repeated."""

    def look(self, ask: Ask, job: str) -> Call:
        """Return the call that polls a job."""

    def seen(self, ask: Ask, job: str, answer: Answer) -> JobView | Call | None:
        """Return the state in the answer, or the next call; None if the call must be repeated."""

    def cancel(self, job: str) -> Call:
        """Return the call that cancels a job."""

    def cancelled(self, answer: Answer) -> str:
        """Return the result of a cancel; empty if the call must be repeated."""


class Native:
    """`/farm/v1`."""

    def submit(self, ask: Ask, *, image: str, hook: str) -> Call:
        body = _fal_fields(ask, image) | {"model": "srpo"}
        if hook:
            body["webhook_url"] = hook
        return Call("POST", "/farm/v1/jobs", body, _key(ask))

    def submitted(self, ask: Ask, answer: Answer) -> JobView | None:
        return JobView(answer.json["id"], answer.json["status"]) if answer.status == 202 else None

    def look(self, ask: Ask, job: str) -> Call:
        return Call("GET", f"/farm/v1/jobs/{job}")

    def seen(self, ask: Ask, job: str, answer: Answer) -> JobView | Call | None:
        return native_view(answer.json) if answer.status == 200 else _not_seen(job, answer)

    def cancel(self, job: str) -> Call:
        return Call("POST", f"/farm/v1/jobs/{job}/cancel")

    def cancelled(self, answer: Answer) -> str:
        return str(answer.json["outcome"]) if answer.status in (200, 202) else ""


class FalQueue:
    """fal's queue, with an image or without."""

    def submit(self, ask: Ask, *, image: str, hook: str) -> Call:
        endpoint = "fal-ai/flux/srpo/image-to-image" if ask.image else "fal-ai/flux/srpo"
        query = f"?fal_webhook={quote(hook, safe='')}" if hook else ""
        start = {"X-Fal-Request-Timeout": str(ask.start_within)} if ask.start_within else {}
        runner_hint = {"X-Fal-Runner-Hint": ask.runner_hint} if ask.runner_hint else {}
        headers = _key(ask) | start | runner_hint
        return Call("POST", f"/fal/queue/{endpoint}{query}", _fal_fields(ask, image), headers)

    def submitted(self, ask: Ask, answer: Answer) -> JobView | None:
        if answer.status != 200:
            return None
        return JobView(answer.json["request_id"], _FAL_STATES[answer.json["status"]])

    def look(self, ask: Ask, job: str) -> Call:
        return Call("GET", f"/fal/queue/fal-ai/flux/requests/{job}/status")

    def seen(self, ask: Ask, job: str, answer: Answer) -> JobView | Call | None:
        result = _json(answer)
        if "status" in result and answer.status in (200, 202):
            if result["status"] == "COMPLETED":
                return Call("GET", f"/fal/queue/fal-ai/flux/requests/{job}")
            return JobView(job, _FAL_STATES[result["status"]])
        return fal_outcome(job, answer)

    def cancel(self, job: str) -> Call:
        return Call("PUT", f"/fal/queue/fal-ai/flux/requests/{job}/cancel")

    def cancelled(self, answer: Answer) -> str:
        return {202: "accepted", 400: "ended"}.get(answer.status, "")


class FalRun(FalQueue):
    """fal's direct call."""

    def submit(self, ask: Ask, *, image: str, hook: str) -> Call:
        return Call("POST", "/fal/run/fal-ai/flux/srpo", _fal_fields(ask, image), _key(ask))

    def submitted(self, ask: Ask, answer: Answer) -> JobView | None:
        job = answer.headers.get("x-fal-request-id", "")
        if not job:
            return None
        if answer.status == 504 and _json(answer).get("error_type") == "request_timeout":
            return JobView(job, UNTOLD)
        return fal_outcome(job, answer)


class WaveSpeed:
    """WaveSpeed, version 3; with `held` the submit is answered at the end."""

    def __init__(self, *, held: bool = False) -> None:
        self._held = held

    def submit(self, ask: Ask, *, image: str, hook: str) -> Call:
        endpoint = "wavespeed-ai/flux-srpo-image-to-image" if ask.image else "wavespeed-ai/flux-srpo"
        query = f"?webhook={quote(hook, safe='')}" if hook else ""
        body: dict[str, Any] = {
            "prompt": ask.prompt,
            "size": f"{ask.width}*{ask.height}",
            "num_inference_steps": ask.steps,
            "seed": ask.seed,
            "output_format": ask.form,
            "enhance_prompt": ask.enhance,
            "enable_sync_mode": self._held,
        }
        if image:
            body |= {"image": image, "strength": ask.strength}
        return Call("POST", f"/api/v3/{endpoint}{query}", body, _key(ask))

    def submitted(self, ask: Ask, answer: Answer) -> JobView | None:
        return _prediction(answer.json["data"]) if answer.status == 200 else None

    def look(self, ask: Ask, job: str) -> Call:
        return Call("GET", f"/api/v3/predictions/{job}/result")

    def seen(self, ask: Ask, job: str, answer: Answer) -> JobView | Call | None:
        return _prediction(answer.json["data"]) if answer.status == 200 else _not_seen(job, answer)

    def cancel(self, job: str) -> Call:
        return Native().cancel(job)  # WaveSpeed has no such call

    def cancelled(self, answer: Answer) -> str:
        return Native().cancelled(answer)


class Images(Native):
    """`/v1/images/generations` in one of its dialects. Later calls about the job use the farm's own dialect."""

    def __init__(self, model: str, success: int = 200) -> None:
        self._model = model
        self._success = success

    def submit(self, ask: Ask, *, image: str, hook: str) -> Call:
        body: dict[str, Any] = {
            "model": self._model,
            "prompt": ask.prompt,
            "size": f"{ask.width}x{ask.height}",
            "num_inference_steps": ask.steps,
            "seed": ask.seed,
            "n": ask.images,
            "output_format": ask.form,
            "response_format": "b64_json" if ask.number % 4 == 0 else "url",
            "enhance_prompt": ask.enhance,
        }
        return Call("POST", "/v1/images/generations", body, _key(ask))

    def submitted(self, ask: Ask, answer: Answer) -> JobView | None:
        job = answer.headers.get("x-request-id", "")
        if answer.status == self._success:
            data = answer.json["data"]
            images = tuple(item.get("url") or item["b64_json"] for item in data)
            prompt = data[0].get("revised_prompt") or answer.json.get("prompt") or ask.prompt
            return JobView(job, "completed", images, prompt)
        if answer.headers.get("x-should-retry") != "false":
            return None
        # 503 and 504: the state cannot be told now. Sent again it would be a second job; this one can be asked about.
        return JobView(job, UNTOLD if answer.status in (503, 504) else "failed")


WAYS: Mapping[str, Way] = {
    "native": Native(),
    "native events": Native(),
    "fal queue": FalQueue(),
    "fal run": FalRun(),
    "fal image": FalQueue(),
    "wavespeed": WaveSpeed(),
    "wavespeed sync": WaveSpeed(held=True),
    "wavespeed image": WaveSpeed(),
    "aimlapi": Images("flux/srpo", 201),
    "siraya": Images("flux-1-srpo-text-to-image"),
    "openai": Images("srpo"),
}

_FAL_STATES = {"IN_QUEUE": "created", "IN_PROGRESS": "processing", "COMPLETED": "processing"}


def native_view(view: Mapping[str, Any]) -> JobView:
    """Return a job as `/farm/v1` shows it."""
    images = tuple(image["url"] for image in view["images"])
    return JobView(view["id"], view["status"], images, view["prompt"], view["code"] or "", moment(view["started_at"]))


def fal_outcome(job: str, answer: Answer) -> JobView | None:
    """Return fal's result of a request: its images, or its error."""
    result = _json(answer)
    if answer.status == 200 and "images" in result:
        return JobView(job, "completed", tuple(image["url"] for image in result["images"]), result["prompt"])
    if result.get("error_type") in _FAL_ENDS:
        return JobView(job, "failed")
    return _not_seen(job, answer)


#: Slugs with which a request of fal's has ended. `internal_error` is also what a farm in trouble says.
_FAL_ENDS = ("client_cancelled", "client_disconnected", "startup_timeout", "runner_server_error")


def content_of(image: str) -> bytes | None:
    """Return the bytes of an image that the answer itself contains; None if it is at a URL."""
    if image.startswith("http"):
        return None
    return base64.b64decode(image.partition(",")[2] if image.startswith("data:") else image)


def moment(text: str | None) -> float:
    """Return the time in an answer, in seconds since the epoch; 0 if there is none."""
    return datetime.fromisoformat(text).timestamp() if text else 0.0


def _prediction(data: Mapping[str, Any]) -> JobView:
    return JobView(data["id"], data["status"], tuple(data["outputs"]), data["prompt"])


def _fal_fields(ask: Ask, image: str) -> dict[str, Any]:
    body: dict[str, Any] = {
        "prompt": ask.prompt,
        "num_inference_steps": ask.steps,
        "seed": ask.seed,
        "num_images": ask.images,
        "output_format": ask.form,
        "enhance_prompt": ask.enhance,
    }
    if image:
        return body | {"image_url": image, "strength": ask.strength}
    return body | {"image_size": {"width": ask.width, "height": ask.height}}


def _key(ask: Ask) -> dict[str, str]:
    return {"Idempotency-Key": ask.key} if ask.key else {}


def _json(answer: Answer) -> dict[str, Any]:
    try:
        result = answer.json
    except ValueError:
        return {}
    return result if isinstance(result, dict) else {}


def _not_seen(job: str, answer: Answer) -> JobView | None:
    """Return the sighting for an answer without the job: it is unknown, or the farm is in trouble."""
    return JobView(job, UNKNOWN) if answer.status == 404 else None


def source_of(ask: Ask, uploaded: str) -> str:
    """Return the request's input image as a URL or data URI; empty if it has none."""
    if not ask.image:
        return ""
    return uploaded or data_uri(ask.image)
