"""Run every check in order, each with a time limit. A check that fails does not stop the others."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import cast

import redis

from farm.auth.api_keys import ApiKeyStore, wants_keys
from farm.bootstrap import check_values
from farm.concurrency.background_thread import call_in_thread
from farm.doctor import access, jobstore, machine, safety, storage, weights, work
from farm.doctor.access import Address, Answer
from farm.doctor.device_memory import device_memory
from farm.doctor.finding import Finding, Mark, good, note, refused, wrong
from farm.domain.errors import FarmError, with_detail
from farm.jobstore import peers, redis_keys, schema
from farm.jobstore.connection import connect
from farm.jobstore.stats import StoreStats
from farm.process import embedded_redis
from farm.process.data_dir import DataDir
from farm.settings import PREFIX, Settings, masked
from farm.tracing import tracer

#: Time limit of one check, in seconds.
CHECK_SECONDS = 10.0

_LATE = "check the service that it talks to, then run farm doctor again"

Check = Callable[[], Finding | Iterable[Finding]]


class Examination:
    """One run of all checks. Later checks use what earlier ones found: whether a farm runs, and its Redis."""

    def __init__(
        self,
        settings: Settings,
        problems: Sequence[str],
        *,
        data_dir: Path,
        host: str | None = None,
        port: int | None = None,
        tls: tuple[Path | None, Path | None] = (None, None),
    ) -> None:
        """Keep the settings, the problems found while reading them, and the API's address and TLS files, if given."""
        self._settings = settings
        self._problems = problems
        self._data_dir = data_dir
        self._asked_for = (host, port)
        self._tls = tls
        self._holder: str | None = None
        self._client: redis.Redis | None = None
        self._base: str | None = None
        self._answer: Answer | None = None

    def findings(self) -> Iterator[Finding]:
        """Yield the findings of every check."""
        for name, check in self._checks():
            yield from within(name, check)

    def _checks(self) -> Iterator[tuple[str, Check]]:
        """Yield the checks one by one: earlier findings decide which ones follow."""
        yield "settings", self._check_settings
        yield "Python", machine.python
        yield "disk", lambda: machine.disk(self._data_dir)
        yield "memory", machine.memory
        yield "farm", self._check_farm
        yield "Redis", self._check_redis
        if self._client:
            yield "clock", lambda: jobstore.clock_of(self._redis)
        yield "storage", lambda: storage.storage(self._settings, self._data_dir, self._client)
        yield "weights", lambda: weights.weights(self._settings)
        if self._settings.pipeline == "flux":
            yield "device", self._check_device
            yield "compiler", lambda: machine.compiler(self._settings)
        if weights.are_real(self._settings):
            if all(finding.mark is not Mark.WRONG for finding in weights.weights(self._settings)):
                yield "model memory", lambda: device_memory(self._settings)
            yield "licences", lambda: weights.licences(self._settings)
        if self._settings.lora and self._settings.pipeline == "flux":
            yield "LoRA", lambda: weights.loras(self._settings)
        if safety.is_set(self._settings):
            yield "safety", lambda: safety.safety(self._settings)
        if folder := self._settings.enhancer_dir:
            yield "enhancer", lambda: weights.enhancer(folder)
        if any(self._tls):
            yield "TLS", lambda: access.tls(*self._tls)
        yield "port", self._check_port
        yield "keys", self._check_keys
        if wants_keys(self._settings, self._address().host):
            yield "URLs", lambda: access.urls(self._settings, self._address().host)
        if self._client:
            yield "processes", lambda: work.processes(peers.alive(self._redis))
            yield "workers", self._check_workers
            yield "queue", lambda: work.queue(StoreStats(self._redis), lease_seconds=self._settings.lease_seconds)
            yield "preparation", lambda: work.preparation(StoreStats(self._redis))
            yield "webhooks", lambda: work.webhooks(StoreStats(self._redis))

    def _check_settings(self) -> Iterator[Finding]:
        yield from (refused("settings", problem) for problem in self._problems)
        check_values(self._settings)
        if endpoint := tracer.check():
            yield good("traces", f"sent to {masked(endpoint)}")
        if not self._problems:
            names = sorted(PREFIX + name.upper() for name in self._settings.model_fields_set)
            yield good("settings", f"set: {', '.join(names)}" if names else "all defaults")

    def _check_farm(self) -> Finding:
        folder = DataDir(self._data_dir)
        folder.refuse_unusable()
        self._holder = folder.holder()
        if self._holder is not None:
            return good("farm", f"farm up runs on {self._data_dir} (pid {self._holder})")
        if self._settings.redis_url is not None:
            return good("farm", f"no farm up runs on {self._data_dir}; checking the farm of FARM_REDIS_URL")
        where = "" if self._data_dir == Path(".farm") else f" --data-dir {self._data_dir}"
        return note("farm", f"no farm up runs on {self._data_dir}", f"farm up{where}")

    def _check_redis(self) -> Iterator[Finding]:
        own = self._settings.redis_url
        url = own or embedded_redis.address(self._data_dir)
        try:
            if url is None:
                raise redis.exceptions.ConnectionError("it has never been started")
            client = connect(url)
            server = jobstore.Server.ask(client, url)
        except redis.exceptions.RedisError as error:
            runs = own is not None or self._holder is not None
            yield jobstore.not_answering(own, self._data_dir, error) if runs else jobstore.at_rest()
            if own is None:
                yield from jobstore.files_at_rest(self._data_dir)
            return
        yield from jobstore.server(server, own=own is not None, unsafe=self._settings.redis_unsafe)
        if not server.can_serve:
            return
        rights = jobstore.rights(client)
        yield rights
        if rights.mark is Mark.GOOD:
            self._client = client
            self._base = cast(str | None, client.get(redis_keys.PUBLIC_URL))
            yield jobstore.schema_finding(schema.read(client), schema.CURRENT)

    def _check_device(self) -> Finding:
        return machine.device(self._settings, alone=self._settings.redis_url is None)

    def _check_port(self) -> Iterator[Finding]:
        address = self._address()
        self._answer = access.ask(address)
        yield access.port(address, self._answer, is_ours=self._is_ours(address))
        if self._is_ours(address) or (self._answer is None and self._runs()):
            yield access.api(address, self._answer, self._base)

    def _check_keys(self) -> Finding:
        callers = ApiKeyStore(self._client) if self._client else None
        return access.keys(self._settings, self._address().host, callers)

    def _check_workers(self) -> Iterable[Finding]:
        expected = self._holder is not None or self._is_ours(self._address())
        found = StoreStats(self._redis).workers()
        return work.workers(found, lease_seconds=self._settings.lease_seconds, are_expected=expected)

    @property
    def _redis(self) -> redis.Redis:
        assert self._client is not None
        return self._client

    def _address(self) -> Address:
        host, port = self._asked_for
        return Address.of(host, port, None if self._settings.public_url else self._base)

    def _is_ours(self, address: Address) -> bool:
        """Return True if the server at this address is the API of this farm."""
        if self._answer is None or not self._answer.is_farm:
            return False
        if self._settings.redis_url is not None:
            return True  # several APIs may share it, and only the last one to start is recorded
        if self._holder is None and self._client is None:
            return False
        if self._base is None or self._settings.public_url is not None:
            return True
        return Address.of(None, None, self._base).port == address.port

    def _runs(self) -> bool:
        """Return True if any process of this farm is alive."""
        return self._holder is not None or (self._client is not None and bool(StoreStats(self._client).workers()))


def within(name: str, check: Check, seconds: float = CHECK_SECONDS) -> list[Finding]:
    """Run a check. If it fails or takes too long, add a finding, and abandon its thread."""
    found: list[Finding] = []

    def work() -> None:
        result = check()
        for finding in [result] if isinstance(result, Finding) else result:
            found.append(finding)

    try:
        error = call_in_thread(name, work).exception(seconds)
    except TimeoutError:
        return [*found, wrong(name, f"this check did not finish within {seconds:.0f} s", _LATE)]
    return found if error is None else [*found, _failed(name, error)]


def _failed(name: str, error: BaseException) -> Finding:
    if isinstance(error, FarmError):
        return refused(name, with_detail(error))
    return wrong(name, f"this check failed: {type(error).__name__}: {error}", "")
