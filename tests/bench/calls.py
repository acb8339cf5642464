"""Calls per second: the API's submit and poll beside a bare Flask application, on the same server, Redis and client.

No worker runs, so that the API is all that is measured: one announced the model and left. Everything is measured in
turn, in many short rounds; a ratio is the median of the rounds' own, so that a machine that slows down meanwhile slows
both sides. Each server has one core, Redis and the load client another: Python runs on one core at a time anyway, and
where the kernel puts them all on one, or moves the threads of a server about, the figures jump by a third.
"""

from __future__ import annotations

import statistics
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import urllib3

from farm.bootstrap import Farm, build
from farm.domain.job import Image, NewJob, Order, Result
from farm.domain.request import Request
from farm.domain.scheduling import HeldJob
from farm.process import child
from farm.process.embedded_redis import EmbeddedRedis
from farm.settings import Settings
from farm.storage.storage import new_key
from tests.bench.core import OTHERS, SERVER, children_on
from tests.bench.figure import Figure
from tests.bench.load import CONNECTIONS, Load, Tally, request
from tests.farms import clean_environment, free_port, wait_for

ROUNDS = 20
SECONDS = 0.2
#: Before it counts: threads are started, caches filled.
_WARM_UP_SECONDS = 0.5

SUBMIT_MIN = 0.8
POLL_MIN = 0.75

NOTE = f"""\
Calls: keys off on loopback, {CONNECTIONS} connections, no worker; {ROUNDS} rounds of {SECONDS} s; medians.
Every server has the same options and a core of its own; Redis and the client share another. `bare submit`: a bare Flask
route with the same validation, one script call that writes one hash, one line in the log, and the same answer. `echo`:
a bare Flask route that answers with the JSON it was sent: the body of the submit, or the document that the poll answers
with."""

_PROMPT = "A red fox in fresh snow at dawn, photographed with a long lens, breath visible in the cold air, soft light"
_BODY = {"model": "srpo", "prompt": _PROMPT, "image_size": "landscape_4_3", "num_inference_steps": 28}


@dataclass(frozen=True, slots=True)
class Target:
    """A request that is repeated, and its server."""

    name: str
    port: int
    request: bytes


def figures(folder: Path) -> list[Figure]:
    """Return the table's rows about submit and poll. `folder` takes the data."""
    with ExitStack() as stack:
        server = EmbeddedRedis(folder)
        with children_on(OTHERS):
            server.start()
            load = stack.enter_context(Load())
        stack.callback(server.stop)
        farm = build(Settings(), folder)
        _announce(farm)
        targets = _targets(farm, stack, folder)
        tallies = _measure(targets, load)
    return _rows(tallies)


def _announce(farm: Farm) -> None:
    """Have a worker announce `srpo`, then leave: submits are accepted from now on, and no wake-up is sent."""
    facts = {"state": "warm", "models": "srpo", "weights": "simulated", "safety": "bundled", "build": "bench"}
    farm.store.renew("bench", facts, [HeldJob("none", 1, 0)])
    farm.store.remove_worker("bench", ["srpo"])


def _completed_job(farm: Farm) -> str:
    """Return a job that went all the way through the job store, with one image (its record: there is no file)."""
    wanted = Request(model="srpo", prompt=_PROMPT, width=1024, height=768, steps=28, guidance=4.5, seed=7)
    job_id = "00000000-0000-4000-8000-000000000000"
    farm.store.submit(NewJob(job_id, "bench", Order("srpo", wanted)))
    (job,) = farm.store.claim("bench", ["srpo"]).batch.jobs
    timings = {"encode": 0.021337, "upload": 0.004242, "start": 0.000512, "denoise": 0.562113, "inference": 0.568771}
    image = Image(new_key(job_id, job.fence, 0, "jpeg"), 1024, 768, "image/jpeg", 31337)
    assert farm.store.complete(job, Result((image,), (False,), timings, (), "bench"))
    farm.store.remove_worker("bench", ["srpo"])
    return job_id


def _targets(farm: Farm, stack: ExitStack, folder: Path) -> list[Target]:
    job_id, key = _completed_job(farm), farm.callers.create("bench")
    bare = stack.enter_context(_served("tests.bench.baseline", folder))
    api = stack.enter_context(_served("api", folder))
    api_with_keys = stack.enter_context(_served("api", folder, FARM_AUTH="keys"))
    poll, result = f"/farm/v1/jobs/{job_id}", f"/api/v3/predictions/{job_id}/result"
    document = urllib3.request("GET", f"http://127.0.0.1:{api}{poll}", retries=False).json()
    return [
        Target("echo of the answer", bare, request("POST", "/echo", document)),
        Target("echo", bare, request("POST", "/echo", _BODY)),
        Target("poll", api, request("GET", poll)),
        Target("poll with keys", api_with_keys, request("GET", poll, key=key)),
        Target("wavespeed result", api, request("GET", result)),
        Target("bare submit", bare, request("POST", "/submit", _BODY)),
        Target("bare submit without log", bare, request("POST", "/submit-without-log", _BODY)),
        Target("submit", api, request("POST", "/farm/v1/jobs", _BODY)),
    ]


@contextmanager
def _served(module: str, folder: Path, **environment: str) -> Iterator[int]:
    """Yield the port of `python -m module`, for the length of a block."""
    port = free_port()
    program = [sys.executable, "-m", module, "--port", str(port), "--data-dir", str(folder)]
    with children_on(SERVER), (folder / "log").open("a") as log:
        process = subprocess.Popen(child.command(*program), env=clean_environment() | environment, stderr=log)
    try:
        wait_for(lambda: _answers(port), what=f"{module}'s first answer")
        yield port
    finally:
        _stop(process)


def _stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()  # gunicorn's worker dies with it
        process.wait()


def _answers(port: int) -> bool:
    try:
        return urllib3.request("GET", f"http://127.0.0.1:{port}/", timeout=2, retries=False).status < 500
    except urllib3.exceptions.HTTPError:
        return False


def _measure(targets: list[Target], load: Load) -> dict[str, list[Tally]]:
    for target in targets:
        load.drive(target.port, target.request, seconds=_WARM_UP_SECONDS)
    tallies: dict[str, list[Tally]] = {target.name: [] for target in targets}
    for number in range(ROUNDS):
        # There and back again: what drifts steadily weighs the same on neighbours.
        for target in targets if number % 2 else reversed(targets):
            tallies[target.name].append(load.drive(target.port, target.request, seconds=SECONDS))
    return tallies


def _rows(tallies: dict[str, list[Tally]]) -> list[Figure]:
    def against(what: str, name: str, baseline: str, at_least: float | None = None) -> Figure:
        pairs = list(zip(tallies[name], tallies[baseline], strict=True))
        rates = [f"{statistics.median(tally.rate for tally in tallies[side]):.0f}/s" for side in (name, baseline)]
        ratio = statistics.median(ours.rate / theirs.rate for ours, theirs in pairs)
        return Figure(what, rates[0], ratio, f"{baseline} {rates[1]}", at_least=at_least)

    return [
        against("submit (native, no worker)", "submit", "bare submit", SUBMIT_MIN),
        against("submit (native, no worker)", "submit", "bare submit without log"),
        against("submit (native, no worker)", "submit", "echo"),
        against("poll a completed job (native)", "poll", "echo of the answer", POLL_MIN),
        against("poll a completed job (native)", "poll", "echo"),
        against("poll a completed job (native, keys on)", "poll with keys", "echo"),
        against("poll a completed job (WaveSpeed result)", "wavespeed result", "echo"),
        _client_share([tally for several in tallies.values() for tally in several]),
    ]


def _client_share(tallies: list[Tally]) -> Figure:
    share = max(tally.client_share for tally in tallies)
    return Figure("load client, busiest round", f"{share:.0%} of a core", share, is_ratio=False)
