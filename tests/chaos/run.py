"""One chaos run: a farm, its callers and the injected faults, from start to end; and the records of it."""

from __future__ import annotations

import itertools
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import redis
import urllib3

from farm.auth.api_keys import ApiKeyStore
from farm.jobstore import redis_keys
from farm.uploads.uploads import MIN_FREE_BYTES
from farm.webhooks import courier as courier
from tests.chaos.callers import moment, native_view
from tests.chaos.clients import SharedState, listening, serve_all
from tests.chaos.faults import WHOLE, FaultInjector, Schedule, Surroundings
from tests.chaos.input_host import InputHost
from tests.chaos.processes import FarmProcesses
from tests.chaos.receivers import Receivers, Signatures
from tests.chaos.records import ENDS, Observations, Oddity, Record
from tests.chaos.requests import ALL_HABITS, CALLERS, Ask, Habits, asks
from tests.farms import Answer, clean_environment, free_port, wait_for
from tests.fault_proxies import FaultyWay, faulty_way
from tests.s3 import S3, Place
from tests.small_disk import small_disk

#: The lease of a run, in seconds.
LEASE = 3.0
#: Pauses of the webhooks: short and many, so that no receiver's mood uses them up.
_HOOK_PAUSES = ",".join(["0.3s", "0.5s", "1s", *["2s"] * 40])
_LOOK_SECONDS = 0.3
_POST_SECONDS = 5.0
#: The disk of the data folder: enough for the records of 100,000 jobs, and for what uploads must leave free.
_DISK_MEBIBYTES = 512 + MIN_FREE_BYTES // 2**20
#: Keys of which none is left when all is over.
_WORKING_SETS = (
    *(
        redis_keys.LEASES,
        redis_keys.PREPARING,
        redis_keys.PREPARING_AGAIN,
        redis_keys.DELAYED,
        redis_keys.START_DEADLINE,
        redis_keys.ABANDON_DEADLINE,
        redis_keys.DELIVERY_QUEUES,
    ),
    *(
        f"{redis_keys.PREFIX}{name}"
        for name in ("waiting_count", "waiting_bytes", "preparing_count", "render_deadline")
    ),
    f"{redis_keys.PREFIX}delivery_failures",
)
_WORKING_PATTERNS = tuple(
    f"{redis_keys.PREFIX}{name}:*"
    for name in (
        *("queue", "queue_by_age", "batch_candidates", "waiting_calls", "direct_calls"),
        *("delivery_queue", "delivery_leases", "delivery_leases_of"),
    )
)
#: Removes orphans from storage, however young: nothing is running any longer.
_SWEEP = """
import sys
from pathlib import Path
from farm.bootstrap import build
from farm.jobstore import redis_keys
from farm.settings import load
farm = build(load(), Path(sys.argv[1]))
farm.sweeper.sweep(older_than=-60)
print("marks of the storage:", sorted(farm.storage.marks()), "; this farm's:", farm.redis.get(redis_keys.FARM_ID))
"""


@dataclass(frozen=True, slots=True)
class Plan:
    """The plan of a run. `patience` is how long callers, and the run itself, wait for an end, in seconds.

    After `seconds` nobody asks for more, whether or not so many jobs were asked for.
    """

    jobs: int
    seed: int
    clients: int = 24
    workers: int = 3
    apis: int = 2
    step_ms: float = 30.0
    habits: Habits = ALL_HABITS
    schedule: Schedule = WHOLE
    moody: bool = True
    patience: float = 120.0
    seconds: float = math.inf
    #: Words that begin each program of the farm, after the interpreter's `-m`.
    prefix: Sequence[str] = ()
    settings: Mapping[str, str] = field(default_factory=dict)


def run(plan: Plan, folder: Path, s3: S3 | None, *, say: Callable[[str], None] = print) -> Observations:
    """Do what the plan says, in an empty folder. Images are stored in a bucket of `s3`; without it, in the folder."""
    observations, began = Observations(), time.monotonic()
    place = s3.place() if s3 else None
    with (
        faulty_way(s3.port) if s3 else nullcontext() as way,
        small_disk(folder / "data", mebibytes=_DISK_MEBIBYTES) as disk,
    ):
        farm = _Farm(plan, folder, _storage_settings(s3, place, way))
        with farm.running(observations) as shared:
            injector = FaultInjector(
                plan.schedule,
                seed=plan.seed,
                farm_processes=farm.farm_processes,
                outside=Surroundings(shared.receivers, shared.inputs, way, disk),
                observations=observations,
            )
            injector.start()
            with listening(shared):
                serve_all(shared, _asks_in_time(plan), clients=plan.clients, progress=_progress(plan, say))
            injector.stop()
            shared.receivers.calm()
            say("all callers are done; now the farm is left alone")
            farm.settle(observations)
            observations.records = farm.records()
            observations.left_behind = farm.left_behind()
            observations.exits = farm.farm_processes.exits()
            _look_into_storage(observations, farm, place)
    for what in farm.bad_ends:
        observations.oddities.append(Oddity("left badly", "farm", what))
    observations.seconds = time.monotonic() - began
    return observations


def _asks_in_time(plan: Plan) -> Iterator[Ask]:
    until = time.monotonic() + plan.seconds
    return itertools.takewhile(lambda _: time.monotonic() < until, asks(plan.jobs, plan.seed, plan.habits))


def _storage_settings(s3: S3 | None, place: Place | None, way: FaultyWay | None) -> dict[str, str]:
    if s3 is None or place is None or way is None:
        return {}
    return s3.environment(way.port) | {"FARM_STORAGE_URL": place.url}


def _progress(plan: Plan, say: Callable[[str], None]) -> Callable[[], None]:
    done = iter(range(1, plan.jobs + 1))
    every = max(1, plan.jobs // 10)

    def tell() -> None:
        count = next(done)
        if count % every == 0:
            say(f"{count} of {plan.jobs}")

    return tell


class _Farm:
    """The farm of a run, and the queries at its end."""

    def __init__(self, plan: Plan, folder: Path, storage: Mapping[str, str]) -> None:
        self._plan = plan
        ports = [free_port() for _ in range(plan.apis)]
        self.urls = [f"http://127.0.0.1:{port}" for port in ports]
        self.environment = clean_environment() | {
            "FARM_PIPELINE": "simulated",
            "FARM_SIMULATED_STEP_MS": str(plan.step_ms),
            "FARM_LEASE_SECONDS": str(LEASE),
            "FARM_GRACE_SECONDS": "15",
            "FARM_HOLD_SECONDS": "15",
            "FARM_AUTH": "keys",
            "FARM_PUBLIC_URL": self.urls[0],
            "FARM_WEBHOOK_ALLOW": "127.0.0.1",
            "FARM_WEBHOOK_SCHEDULE": _HOOK_PAUSES,
            "FARM_LOG": "json",
            **storage,
            **plan.settings,
        }
        self.data_dir = folder / "data"
        self.farm_processes = FarmProcesses(
            self.data_dir, self.environment, ports=ports, workers=plan.workers, prefix=plan.prefix
        )
        self.bad_ends: list[str] = []
        self._http = urllib3.PoolManager(retries=False, timeout=30)
        self._keys: dict[str, str] = {}

    @contextmanager
    def running(self, observations: Observations) -> Iterator[SharedState]:
        """Yield the farm with its callers' keys, receivers and input images."""
        self.farm_processes.start_redis()
        callers = ApiKeyStore(self.farm_processes.client)
        self._keys = {name: callers.create(name) for name in CALLERS} | {"root": callers.create("root", is_admin=True)}
        self.farm_processes.start()
        try:
            wait_for(self._is_ready, seconds=60, what=f"the farm (its log is {self.farm_processes.log})")
            secrets = {name: self._get("/farm/v1/webhook_secret", name).json["secret"] for name in CALLERS}
            signatures = Signatures(secrets, self._get("/.well-known/jwks.json", "root").json)
            with (
                Receivers(observations, signatures, seed=self._plan.seed, moody=self._plan.moody) as receivers,
                InputHost() as inputs,
            ):
                yield SharedState(self.urls, self._keys, observations, receivers, inputs, seconds=self._plan.patience)
        finally:
            self.bad_ends = self.farm_processes.stop()

    def settle(self, observations: Observations) -> None:
        """Wait until every job has ended and every end is delivered, as far as that happens."""
        for is_done in (
            self._is_ready,
            self._have_all_ended,
            partial(self._are_all_told, observations),
            self._is_empty,
        ):
            self._wait_for(is_done)

    def _wait_for(self, is_done: Callable[[], bool]) -> None:
        until = time.monotonic() + self._plan.patience
        while time.monotonic() < until:
            with suppress(urllib3.exceptions.HTTPError, redis.exceptions.RedisError):
                self._move_time_on()
                if is_done():
                    return
            time.sleep(_LOOK_SECONDS)

    def _is_empty(self) -> bool:
        return not self.left_behind()

    def records(self) -> dict[str, Record]:
        """Return the record of every job of every caller."""
        found: dict[str, Record] = {}
        for caller in CALLERS:
            before = ""
            while True:
                page = self._get(f"/farm/v1/jobs?limit=100{before}", caller).json
                found |= {view["id"]: _record(caller, view) for view in page["jobs"]}
                if page["before"] is None:
                    break
                before = f"&before={page['before']}"
        return found

    def left_behind(self) -> dict[str, int]:
        """Return what the working sets still contain."""
        client = self.farm_processes.client
        names = [
            *_WORKING_SETS,
            *(name for pattern in _WORKING_PATTERNS for name in client.scan_iter(pattern, count=1000)),
        ]
        sizes = {name: _size(client, name) for name in names}
        return {name.removeprefix(redis_keys.PREFIX): size for name, size in sizes.items() if size}

    def sweep(self) -> str:
        """Sweep the whole storage, and return what the sweeper says of it."""
        program = [sys.executable, "-c", _SWEEP, str(self.data_dir)]
        done = subprocess.run(program, env=self.environment, check=True, capture_output=True, text=True)
        return done.stderr + done.stdout

    def _is_ready(self) -> bool:
        with suppress(urllib3.exceptions.HTTPError):
            if all(self._http.request("GET", f"{url}/readyz").status == 200 for url in self.urls):
                workers = self._get("/farm/v1/workers", "root").json["workers"]
                return any(worker.get("state") == "warm" for worker in workers)
        return False

    def _get(self, path: str, caller: str) -> Answer:
        headers = {"Authorization": f"Bearer {self._keys[caller]}"}
        return Answer(self._http.request("GET", self.urls[0] + path, headers=headers))

    def _have_all_ended(self) -> bool:
        queue = self._get("/farm/v1/queue", "root").json
        if queue["waiting"] or queue["processing"] or queue["unprepared"]:
            return False
        return all(record.state in ENDS for record in self.records().values())

    def _are_all_told(self, observations: Observations) -> bool:
        deleted = {one.job for one in observations.deletions}
        result = {one.job for one in observations.webhooks if one.is_terminal and one.answered == 200}
        return all(job in result or job in deleted for job, ask in observations.jobs.items() if ask.webhook)

    def _move_time_on(self) -> None:
        """Expire what waits for time only: calls that hung up, and deliveries of a killed webhook worker."""
        client = self.farm_processes.client
        for entry in cast(list[str], client.zrange(redis_keys.ABANDON_DEADLINE, 0, -1)):
            client.zadd(redis_keys.ABANDON_DEADLINE, {entry: 0}, xx=True)
        # Receivers answer at once by now: what has been in flight for so long is an orphan.
        overdue = (time.time() + courier.LEASE_SECONDS - _POST_SECONDS) * 1e6
        for name in client.scan_iter(f"{redis_keys.PREFIX}delivery_leases:*", count=1000):
            for entry in cast(list[str], client.zrangebyscore(name, "-inf", overdue)):
                client.zadd(name, {entry: 0}, xx=True)
                client.zadd(
                    redis_keys.DELIVERY_QUEUES, {name.removeprefix(f"{redis_keys.PREFIX}delivery_leases:"): 0}, xx=True
                )


def _size(client: Any, name: str) -> int:
    kind = client.type(name)
    sizes = {"zset": client.zcard, "hash": client.hlen, "set": client.scard}
    return int(sizes[kind](name)) if kind in sizes else int(client.exists(name))


def _record(caller: str, view: Mapping[str, Any]) -> Record:
    result = native_view(view)
    names = tuple(url.rpartition("/")[2] for url in result.images)
    return Record(
        result.job,
        caller,
        result.prompt,
        result.state,
        result.code,
        names,
        started=moment(view["started_at"]),
        created=moment(view["created_at"]),
        ended=moment(view["finished_at"]),
    )


def _look_into_storage(observations: Observations, farm: _Farm, place: Place | None) -> None:
    before = _stored(farm, place)
    observations.sweep_log = farm.sweep()
    listed = _stored(farm, place)
    observations.swept = len(before - listed)
    wanted = {name for record in observations.records.values() for name in record.images}
    # A list may be late, as Swift's is when it has much to do: where it is a surprise, the object itself is asked for.
    surprises = listed ^ wanted if place else set()
    observations.stored = (listed - surprises) | {name for name in surprises if place and _is_there(place, name)}


def _is_there(place: Place, name: str) -> bool:
    try:
        place.get(name)
    except place.client.exceptions.NoSuchKey:
        return False
    return True


def _stored(farm: _Farm, place: Place | None) -> set[str]:
    if place:
        return set(place.names())
    return {path.name for path in (farm.data_dir / "images").rglob("*") if path.is_file()}
