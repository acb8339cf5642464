"""The runbook: for each alert its fault is planted, and the commands of its section show it and end it."""

from __future__ import annotations

import re
import shlex
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import pytest
import redis
import urllib3
from flask.testing import FlaskClient

from farm.auth.api_keys import Caller
from farm.bootstrap import Farm
from farm.domain.delivery import Attempt, Outcome
from farm.domain.job import State
from farm.domain.pause import Group
from farm.jobstore import redis_keys
from farm.jobstore.reading import Reading
from farm.uploads import uploads
from monitoring.alerts import alerts
from tests.docs_snippets import executed_by, plain_lines
from tests.runbook import sections
from tests.service.api.calls import submit
from tests.service.cli.commands import Runner, served
from tests.service.jobstore import jobs
from tests.service.jobstore.jobs import FACTS

#: Programs that only a real machine has, of which the tests do no more than to know them.
NOT_HERE = ("systemctl", "dmesg", "nvidia-smi")
RECEIVER = "https://you.example"


@dataclass
class Scene:
    """A farm with a fault, the words that stand for its parts in commands, and how to see that the fault is over."""

    farm: Farm
    api: FlaskClient
    folder: Path
    patch: pytest.MonkeyPatch
    words: dict[str, str] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def redis(self) -> redis.Redis:
        return self.farm.redis

    def fail(self, code: str, *, retry: bool = False) -> None:
        """Have a job fail with this code."""
        self.words |= {"JOB": submit(self.api), "CODE": code}
        job = jobs.take_one(self.farm.store)
        self.farm.store.fail(job, code, "It failed.", retry="again" if retry else "never")

    def warm(self) -> None:
        """Have a warm worker, whose last heartbeat stays recent however slow the test is."""
        self.words["WORKER"] = "w1"
        self.farm.store.renew("w1", FACTS | {"host": "rack-1"}, [])
        self.redis.zadd(redis_keys.WORKERS, {"w1": self.farm.stats.now_us() + 3600e6})

    def total(self, name: str) -> int:
        return Reading.of(self.redis).total(name)


@dataclass(frozen=True)
class Case:
    """Drill of an alert: how its fault is planted, what the commands must print (in order), and whether they end it."""

    plant: Callable[[Scene], None]
    shows: tuple[str, ...]
    is_over: Callable[[Scene], bool] | None = None


def too_few_workers(scene: Scene) -> None:
    scene.words["CALLER"] = "local"
    submit(scene.api)


def failures(scene: Scene) -> None:
    scene.fail("out_of_memory")


def failing_receiver(scene: Scene) -> None:
    submit(scene.api, webhook_url=f"{RECEIVER}/hook", webhook_events=["job.created"])
    (due,) = scene.farm.deliveries.claim(1, lease_seconds=60)
    scene.farm.deliveries.finish(due, Outcome.FAILED, Attempt(1, 0.25, 410))
    scene.words |= {"DELIVERY": due.id, "RECEIVER": RECEIVER}


def no_api(scene: Scene) -> None:
    scene.environment["FARM_URL"] = "http://127.0.0.1:9"


def no_redis(scene: Scene) -> None:
    scene.environment["FARM_REDIS_URL"] = f"unix://{scene.folder}/none.sock"


def no_worker(scene: Scene) -> None:
    scene.farm.store.remove_worker("w1", ["srpo"])
    submit(scene.api)


def paused(scene: Scene) -> None:
    scene.farm.store.pause()
    scene.farm.store.pause(Group("model", "srpo"))


def lost_worker(scene: Scene) -> None:
    scene.redis.zadd(redis_keys.WORKERS, {"w1": 1}, xx=True)


def exhausted(scene: Scene) -> None:
    scene.words["JOB"] = submit(scene.api)
    for _ in range(jobs.TERMS.max_attempts):
        jobs.take_one(scene.farm.store)
        jobs.lose(scene.redis, scene.farm.store)


def full_redis(scene: Scene) -> None:
    used, _ = Reading.of(scene.redis).memory
    scene.redis.config_set("maxmemory", round(used / 0.75))


def full_disk(scene: Scene) -> None:
    """Have uploads need more than any disk has left."""
    scene.patch.setattr(uploads, "MIN_FREE_BYTES", 2**62)
    scene.words |= {"DATA": str(scene.farm.data_dir), "JOB": submit(scene.api)}
    job = jobs.take_one(scene.farm.store)
    scene.farm.store.complete(job, jobs.result(job))


def broken_storage(scene: Scene) -> None:
    (scene.folder / ".farm").mkdir()
    (scene.folder / ".farm" / "images").write_text("no folder")
    scene.fail("storage_failed")
    scene.farm.tally.storage_errors.note("put", "It is not a folder.")
    scene.farm.tally.flush()


def faulty_card(scene: Scene) -> None:
    scene.farm.store.renew("w1", FACTS | {"host": "rack-1", "device": "cuda:0", "state": "faulty"}, [])


def no_courier(scene: Scene) -> None:
    submit(scene.api, webhook_url=f"{RECEIVER}/hook", webhook_events=["job.created"])
    for queue in cast(list[str], scene.redis.zrange(redis_keys.DELIVERY_QUEUES, 0, -1)):
        scene.redis.zadd(redis_keys.DELIVERY_QUEUES, {queue: 1})


def unreadable_part(scene: Scene) -> None:
    scene.redis.delete(redis_keys.DELIVERY_FAILURES)
    scene.redis.set(redis_keys.DELIVERY_FAILURES, "no hash")


def uncounted_job(scene: Scene) -> None:
    submit(scene.api)
    scene.redis.hincrby(redis_keys.TOTALS, "jobs_accepted:srpo:normal", 1)


CASES = {
    "FarmSloStart": Case(
        too_few_workers,
        ("waiting 1", "w1 .*warm", "created", "farm resume --caller local"),
        lambda scene: scene.farm.stats.startable() == 0,
    ),
    "FarmSloSuccess": Case(
        failures,
        ("out_of_memory", "rack|w1 .*out_of_memory", "^[0-9a-f-]{36}$"),
        lambda scene: scene.total("jobs_accepted") == 2,
    ),
    "FarmSloWebhooks": Case(
        failing_receiver,
        ("failed .*410", "HTTP 410", "is queued again"),
        lambda scene: scene.total("webhooks_waiting") == 1,
    ),
    "FarmAbsent": Case(no_api, ("Connection refused",)),
    "FarmApiDown": Case(no_api, ("Connection refused",)),
    "FarmStoreDown": Case(no_redis, ("No such file", "Redis .*does not answer")),
    "FarmNobodyConsumes": Case(no_worker, ("id +state", "no warm worker serves this model")),
    "FarmPaused": Case(
        paused,
        ("PAUSED .*PAUSED: model srpo", "(?s)the farm is paused.*farm resume", "resumed; still paused: model srpo"),
        lambda scene: not scene.farm.stats.is_paused(),
    ),
    "FarmWorkerLost": Case(lost_worker, ("w1 .*lost", "draining"), lambda scene: scene.farm.store.is_draining("w1")),
    "FarmJobsExhausted": Case(exhausted, ("attempts_exhausted", "(?s)rack-1.*worker_lost.*attempts_exhausted")),
    "FarmRedisMemory": Case(
        full_redis,
        ("maxmemory", r"used \(\d+%\)", "waiting 0", "OK"),
        lambda scene: Reading.of(scene.redis).memory[1] == 2 * 1024**3,
    ),
    "FarmDisk": Case(
        full_disk,
        (r"disk\s+of\s+the\s+data\s+folder\s+has .* left;\s+refused", "✗ disk", "/redis$", "completed", "deleted"),
        lambda scene: scene.farm.store.get(scene.words["JOB"]) is None,
    ),
    "FarmStorageErrors": Case(
        broken_storage,
        ("put failed .*It is not a folder", "✗ storage", "^[0-9a-f-]{36}$"),
        lambda scene: scene.total("jobs_accepted") == 2,
    ),
    "FarmDeviceErrors": Case(
        faulty_card, ("w1 .*faulty .*cuda:0", "draining"), lambda scene: scene.farm.store.is_draining("w1")
    ),
    "FarmWebhooksOverdue": Case(no_courier, ("(?s)overdue.*farm worker --webhooks",)),
    "FarmScrapeIncomplete": Case(unreadable_part, ("farm_scrape_failed_families 1",)),
    "FarmJobsUnaccounted": Case(uncounted_job, ("farm_jobs_unaccounted 1", "waiting 1")),
}


class Shell:
    """Runs the runbook's commands: `farm` in this process, and what `redis-cli`, `curl` and `grep` would do."""

    def __init__(self, run: Runner, environment: dict[str, str]) -> None:
        self._run = run
        self._environment = environment

    def __call__(self, line: str) -> str:
        """Return what a command prints."""
        command, _, word = line.partition(" | grep ")
        output = self._output(shlex.split(re.sub(r"\$(\w+)", lambda name: self._environment[name[1]], command)))
        return "\n".join(each for each in output.splitlines() if word in each)

    def _output(self, words: list[str]) -> str:
        match words:
            case ["farm", *arguments]:
                ended = self._run(*arguments)
                return ended.out + ended.err
            case ["redis-cli", "-u", url, *command]:
                return _redis_says(url, command)
            case ["du", "-sh", folders]:
                return subprocess.check_output(["du", "-sh", *Path("/").glob(folders[1:])], text=True)
            case ["curl", "-s", url]:
                return _page(url)
        raise AssertionError(f"the tests do not know: {words}")


def _redis_says(url: str, command: list[str]) -> str:
    try:
        with redis.Redis.from_url(url, decode_responses=True) as client:
            reply = client.execute_command(*command)
    except redis.exceptions.ConnectionError as error:
        return str(error)
    return "OK" if reply is True else str(reply)


def _page(url: str) -> str:
    try:
        return urllib3.request("GET", url, retries=False).data.decode()
    except urllib3.exceptions.HTTPError as error:
        return str(error)


@pytest.fixture
def scene(
    farm: Farm,
    api: FlaskClient,
    client: redis.Redis,
    redis_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Scene]:
    monkeypatch.chdir(tmp_path)
    memory = client.config_get("maxmemory")["maxmemory"]
    with served(api.application) as url:
        environment = {"FARM_URL": url, "FARM_REDIS_URL": redis_url, "FARM_PIPELINE": "simulated"}
        scene = Scene(farm, api, tmp_path, monkeypatch, environment=environment)
        scene.warm()
        yield scene
    client.config_set("maxmemory", str(memory))


@pytest.mark.parametrize("title", CASES)
def test_the_commands_of_a_section_show_its_fault_and_end_it(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], title: str
) -> None:
    case = CASES[title]
    case.plant(scene)
    for name, value in scene.environment.items():
        monkeypatch.setenv(name, value)
    shell = Shell(Runner(monkeypatch, capsys), scene.environment)
    assert case.is_over is None or not case.is_over(scene)

    commands = [line for line in sections()[title].commands if not line.startswith(NOT_HERE)]
    shown = [shell(re.sub(r"\b[A-Z]{3,}\b", lambda word: scene.words.get(word[0], word[0]), line)) for line in commands]

    assert len(shown) == len(case.shows), commands
    for command, output, pattern in zip(commands, shown, case.shows, strict=True):
        assert re.search(pattern, output, re.MULTILINE), f"{command}:\n{output}"
    assert case.is_over is None or case.is_over(scene)


def test_every_alert_has_a_section_whose_commands_are_executed() -> None:
    named = {alert.section or alert.name for alert in alerts()}

    assert named == set(CASES)
    snippets = executed_by("test_the_commands_of_a_section_show_its_fault_and_end_it")
    lines = [line for snippet in snippets for line in plain_lines(snippet.code)]
    assert [line for title, section in sections().items() if title in named for line in section.commands] == lines


def test_a_key_is_replaced_without_a_gap(
    scene: Scene, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, value in scene.environment.items():
        monkeypatch.setenv(name, value)
    shell, identify = Shell(Runner(monkeypatch, capsys), scene.environment), scene.farm.callers.identify
    (snippet,) = executed_by("test_a_key_is_replaced_without_a_gap")
    create, listing, revoke = plain_lines(snippet.code)
    old = scene.farm.callers.create("ada")

    new = shell(create.replace("CALLER", "ada")).strip()
    found = shell(listing)
    assert all(key.split("_")[1] in found for key in (old, new))
    assert identify(old) == identify(new) == Caller("ada")

    shell(revoke.replace("KEY", old.split("_")[1]))
    assert (identify(old), identify(new)) == (None, Caller("ada"))


def test_a_retried_job_is_a_new_one(scene: Scene) -> None:
    """The cases above count on it."""
    scene.fail("out_of_memory")

    assert jobs.state(scene.farm.store, scene.words["JOB"]) is State.FAILED
    assert scene.total("jobs_accepted") == 1
