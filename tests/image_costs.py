"""CPU time and memory that an image costs the farm, measured in a process of its own."""

from __future__ import annotations

import json
import multiprocessing
import time
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from farm.dialects import fields
from farm.domain.errors import InvalidRequest
from farm.domain.job import Source
from farm.images import decode
from farm.images.decode import UnusableImage
from farm.images.intake import Intake
from farm.ssrf_safe_http import SsrfSafeClient
from farm.storage.local import LocalStorage
from tests.hostile_images import HOSTILE
from tests.images import data_uri

_MEBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class Cost:
    """Measured cost of an image, and what became of it: an error's message, or nothing."""

    seconds: float
    mebibytes: float
    error: str = ""


@dataclass(frozen=True, slots=True)
class Costs:
    """The costs of an image file of `mebibytes`."""

    mebibytes: float
    #: Of reading a request that brings it, and checking the image, in the API.
    intake: Cost
    #: Of making the farm's copy of it, in the background worker.
    preparation: Cost


T = TypeVar("T")
#: Returns what something hostile costs, by its table and name.
Measure = Callable[[str, str], T]


@contextmanager
def measuring_process(measure: Measure[T]) -> Iterator[Measure[T]]:
    """Yield a function that measures as `measure` does, in a process without pytest's memory."""
    with ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn")) as pool:
        yield lambda table, name: pool.submit(measure, table, name).result(timeout=120)


def file_costs(table: str, name: str) -> Costs:
    """Measure a hostile image file."""
    content = HOSTILE[table][name]()
    return Costs(len(content) / 2**20, _intake(content), measured(lambda: decode.prepared(content)))


def _intake(content: bytes) -> Cost:
    body = json.dumps({"image_url": data_uri(content)}).encode()
    intake = Intake(LocalStorage(Path()), outbound=SsrfSafeClient(frozenset()), base=lambda: None)
    return measured(lambda: intake.examine([Source("image_url", fields.decode(body)["image_url"])]))


def measured(act: Callable[[], object]) -> Cost:
    """Return the cost of a call, which may refuse what it is given."""
    error = ""
    memory = _reset_peak()
    began = time.process_time()
    try:
        with warnings.catch_warnings(action="ignore"):
            act()
    except (UnusableImage, InvalidRequest) as refusal:
        error = str(refusal)
    return Cost(time.process_time() - began, (_peak() - memory) / _MEBIBYTE, error)


def _reset_peak() -> int:
    """Reset the peak of this process's memory to what it takes now, and return that in KiB (see proc(5))."""
    Path("/proc/self/clear_refs").write_text("5")
    return _peak()


def _peak() -> int:
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0])
