"""Records for tests: valid as they stand, changed by name."""

from __future__ import annotations

from typing import Any

from farm.dialects.links import Links
from farm.domain.delivery import Due
from farm.domain.job import Image, Job, Result, State
from farm.domain.request import Request

JOB_ID = "0b0f3d1e-3c52-4f0e-9d55-6a1f5f7f2c11"
#: 2026-01-02T03:04:05.678901Z
CREATED_US = 1_767_323_045_678_901


def a_request(**changes: Any) -> Request:
    """Return a small image of a fox."""
    fields: dict[str, Any] = {
        "model": "srpo",
        "prompt": "a red fox",
        "width": 256,
        "height": 256,
        "steps": 4,
        "guidance": 4.5,
        "seed": 7,
    }
    return Request(**(fields | changes))


def a_result(job_id: str = JOB_ID, *, images: int = 1, **changes: Any) -> Result:
    """Return what a worker reports of a job it has rendered."""
    keys = [f"{job_id}-1-{number}-{number:016x}.jpeg" for number in range(images)]
    fields: dict[str, Any] = {
        "images": tuple(Image(key, 256, 256, "image/jpeg", 1234) for key in keys),
        "flagged": (False,) * images,
        "timings": {"start": 0.01, "denoise": 1.0, "device": 1.1, "inference": 1.2345, "encode": 0.1, "upload": 0.1},
        "warnings": (),
        "build": "b1",
    }
    return Result(**(fields | changes))


def a_job(state: State = State.CREATED, **changes: Any) -> Job:
    """Return a record in this state."""
    fields: dict[str, Any] = {"caller": "ada", "endpoint": "srpo", "request": a_request(), "created_us": CREATED_US}
    if state is not State.CREATED:
        fields |= {"attempt": 1, "fence": 5, "sequence": 2, "step": 2, "started_us": CREATED_US + 1_000_000}
    if state.is_terminal:
        fields |= {"sequence": 3, "finished_us": CREATED_US + 3_000_000}
    if state is State.COMPLETED:
        fields["result"] = a_result()
    if state is State.FAILED:
        fields |= {"code": "cancelled", "error": "The job was cancelled."}
    return Job(id=JOB_ID, state=state, **(fields | changes))


BASE = "https://farm.example"
#: Links whose images hold their own names.
LINKS = Links(BASE, file=lambda key: f"{BASE}/files/{key}", content=lambda key: key.encode())

#: A delivery of a job's end.
A_DUE = Due(
    id=f"{JOB_ID}-3",
    job=JOB_ID,
    caller="ada",
    receiver="https://a.example",
    url="",
    event="completed",
    sequence=3,
    fence=1,
    attempts_made=0,
    is_manual=False,
    created_us=CREATED_US,
    claimed_us=CREATED_US,
)
