"""Traces of a whole farm, as a collector receives them: one for each job, whatever process worked on it."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span, Status

from farm.process.child import EXIT_CONFIG
from tests.farms import RunningFarm, farm_command, free_port, running_farm, wait_for
from tests.webhook_receiver import Receiver, answer, running_receiver

CANARY = "a canary that sings 51c97f3a"
TRACE, CALLERS_SPAN = "4bf92f3577b34da6a3ce929d0e0e4736", "00f067aa0ba902b7"
#: Span → its parent, and the service that recorded it.
GOLDEN = {
    "submit job": ("caller", "srpo-farm-api"),
    "prepare job": ("submit job", "srpo-farm-webhooks"),
    "wait for worker": ("submit job", "srpo-farm-worker"),
    "render job": ("submit job", "srpo-farm-worker"),
    "start": ("render job", "srpo-farm-worker"),
    "denoise": ("render job", "srpo-farm-worker"),
    "decode": ("render job", "srpo-farm-worker"),
    "safety": ("render job", "srpo-farm-worker"),
    "encode": ("render job", "srpo-farm-worker"),
    "upload": ("render job", "srpo-farm-worker"),
    "deliver webhook": ("submit job", "srpo-farm-webhooks"),
}


@dataclass(frozen=True, slots=True)
class Received:
    """A span as it was received, and the service that sent it."""

    span: Span
    service: str

    @property
    def trace(self) -> str:
        return self.span.trace_id.hex()

    @property
    def facts(self) -> dict[str, str]:
        return {fact.key: fact.value.string_value for fact in self.span.attributes}


class Collector:
    """Spans that a receiver of OTLP over HTTP has received."""

    def __init__(self, receiver: Receiver) -> None:
        self.url = receiver.url
        self._receiver = receiver

    def spans(self, trace: str = "") -> list[Received]:
        """Return the spans of a trace, or of all."""
        requests = [ExportTraceServiceRequest.FromString(one.body) for one in self._receiver.at("/v1/traces")]
        spans = [
            Received(span, _service(part.resource.attributes))
            for request in requests
            for part in request.resource_spans
            for scope in part.scope_spans
            for span in scope.spans
        ]
        return [one for one in spans if trace in ("", one.trace)]


def _service(attributes: Iterable[KeyValue]) -> str:
    names: dict[str, str] = {one.key: one.value.string_value for one in attributes}
    return names["service.name"]


def accept(request: BaseHTTPRequestHandler) -> None:
    request.send_response(200)
    request.send_header("Content-Length", "0")
    request.end_headers()


@pytest.fixture(scope="module")
def collector() -> Iterator[Collector]:
    with running_receiver() as receiver:
        receiver.behave = accept
        yield Collector(receiver)


@pytest.fixture(scope="module")
def receiver() -> Iterator[Receiver]:
    with running_receiver() as receiver:
        yield receiver


@pytest.fixture(scope="module")
def traced(tmp_path_factory: pytest.TempPathFactory, collector: Collector) -> Iterator[RunningFarm]:
    """Yield a farm with keys whose traces go to the collector."""
    environment = {
        "FARM_AUTH": "keys",
        "FARM_SIMULATED_STEP_MS": "5",
        "FARM_WEBHOOK_ALLOW": "127.0.0.1",
        "FARM_WEBHOOK_SCHEDULE": "0.1s",
        "OTEL_EXPORTER_OTLP_ENDPOINT": collector.url,
        "OTEL_BSP_SCHEDULE_DELAY": "50",
        "HTTP_PROXY": f"http://127.0.0.1:{free_port()}",  # nothing answers there, and nothing asks there
    }
    with running_farm(tmp_path_factory.mktemp("traced") / "data", **environment) as farm:
        yield farm


@pytest.fixture(scope="module")
def key(traced: RunningFarm) -> str:
    return farm_command("keys", "create", "ada", "--data-dir", str(traced.data_dir)).stdout.strip()


def submit(farm: RunningFarm, key: str, traceparent: str, **fields: object) -> str:
    body = {"model": "srpo", "prompt": CANARY, "image_size": {"width": 256, "height": 256}} | fields
    headers = {"Authorization": f"Bearer {key}", "X-Request-Id": "follow-me-2", "traceparent": traceparent}
    accepted = farm.call("POST", "/farm/v1/jobs", body, **headers)
    assert accepted.status == 202, accepted.body
    job_id: str = accepted.json["id"]
    return job_id


def test_a_job_is_one_trace_from_the_call_to_the_webhook(
    traced: RunningFarm, key: str, collector: Collector, receiver: Receiver
) -> None:
    statuses = iter([500])
    receiver.behave = lambda request: answer(next(statuses, 200))(request)
    webhook = {"webhook_url": f"{receiver.url}/{key}", "webhook_events": ["job.completed"]}

    job_id = submit(traced, key, f"00-{TRACE}-{CALLERS_SPAN}-01", enhance_prompt=True, **webhook)

    wait_for(lambda: len(receiver.received) == 2, what="the second attempt")
    wait_for(lambda: len(collector.spans(TRACE)) == len(GOLDEN) + 1, what="every span")
    found = collector.spans(TRACE)
    names = {one.span.span_id.hex(): one.span.name for one in found} | {CALLERS_SPAN: "caller"}
    tree = {one.span.name: (names[one.span.parent_span_id.hex()], one.service) for one in found}
    assert tree == GOLDEN
    _check_times({one.span.name: one.span for one in found})
    by_name = {one.span.name: one for one in found}
    assert {one.facts["farm.job"] for one in found if "farm.job" in one.facts} == {job_id}
    assert by_name["render job"].facts["farm.outcome"] == "completed"
    assert by_name["submit job"].facts["farm.request_id"] == "follow-me-2"
    sent = [one.span for one in found if one.span.name == "deliver webhook"]
    assert [span.status.code for span in sorted(sent, key=lambda span: span.start_time_unix_nano)] == [
        Status.STATUS_CODE_ERROR,
        Status.STATUS_CODE_UNSET,
    ]
    assert {one.headers["traceparent"] for one in receiver.received} == {
        f"00-{TRACE}-{span.span_id.hex()}-01" for span in sent
    }
    _check_secrets(found, key)
    wait_for(lambda: len(_logged(traced)) == 4, what="the log of every process")
    events = ["job accepted", "job prepared", "job claimed", "job completed"]
    assert [(line["event"], line["job"]) for line in _logged(traced)] == [(event, job_id) for event in events]


def _logged(farm: RunningFarm) -> list[dict[str, Any]]:
    """Return the lines about the trace, which each process writes for itself, in the order of their times."""
    lines = [line for line in map(json.loads, _json_lines(farm)) if line.get("trace") == TRACE]
    return sorted(lines, key=lambda line: line["timestamp"])


def _json_lines(farm: RunningFarm) -> list[str]:
    return [line for line in farm.log.read_text().splitlines() if line.startswith("{")]


def _check_times(spans: dict[str, Span]) -> None:
    """Check that what follows begins later, and that stages lie within their attempt."""
    begins = [spans[name].start_time_unix_nano for name in ("submit job", "prepare job", "render job", "denoise")]
    assert begins == sorted(begins)
    whole = spans["render job"]
    for name, (parent, _) in GOLDEN.items():
        if parent == "render job":
            assert whole.start_time_unix_nano - 1e6 <= spans[name].start_time_unix_nano, name
            assert spans[name].end_time_unix_nano <= whole.end_time_unix_nano, name
    assert spans["denoise"].end_time_unix_nano - spans["denoise"].start_time_unix_nano > 27 * 5e6


def _check_secrets(found: list[Received], key: str) -> None:
    everything = "".join(str(one.span) for one in found)
    for secret in (CANARY, "51c97f3a", key, key.split("_", 2)[2]):
        assert secret not in everything


def test_a_call_with_garbage_begins_a_trace_of_its_own(traced: RunningFarm, key: str, collector: Collector) -> None:
    job_id = submit(traced, key, f"00-{'0' * 32}-{CALLERS_SPAN}-01")

    def rendered() -> list[Received]:
        return [one for one in collector.spans() if one.facts.get("farm.job") == job_id]

    wait_for(lambda: len(rendered()) == 3, what="its spans")
    (root,) = [one for one in rendered() if one.span.name == "submit job"]
    assert root.span.parent_span_id == b""
    assert {one.trace for one in rendered()} == {root.trace}


def test_a_trace_that_its_caller_does_not_record_is_not_recorded_here(
    traced: RunningFarm, key: str, collector: Collector
) -> None:
    unrecorded, recorded = "a" * 32, "b" * 32
    jobs = [
        submit(traced, key, f"00-{trace}-{CALLERS_SPAN}-{flag}")
        for trace, flag in ((unrecorded, "00"), (recorded, "01"))
    ]

    wait_for(lambda: any(one.span.name == "render job" for one in collector.spans(recorded)), what="the other trace")
    assert traced.redis.hget(f"srpo:job:{jobs[0]}", "state") == "completed"
    assert collector.spans(unrecorded) == []


@pytest.mark.parametrize(
    ("program", "redis_url"), [(["up"], ""), (["api"], ""), (["worker", "--webhooks"], "redis://127.0.0.1:1/0")]
)
def test_without_the_extra_no_process_starts_and_each_says_why(
    tmp_path: Path, program: list[str], redis_url: str
) -> None:
    settings = _without_opentelemetry(tmp_path) | ({"FARM_REDIS_URL": redis_url} if redis_url else {})

    done = farm_command(*program, "--data-dir", str(tmp_path / "data"), environment=settings)

    assert (done.returncode, done.stderr.count("\n")) == (EXIT_CONFIG, 1), done.stderr
    assert "pip install 'srpo-farm[otel]'" in done.stderr


def test_without_the_extra_the_doctor_says_why(tmp_path: Path) -> None:
    done = farm_command("doctor", "--data-dir", str(tmp_path / "data"), environment=_without_opentelemetry(tmp_path))

    assert done.returncode == 1
    assert "pip install 'srpo-farm[otel]'" in " ".join(done.stdout.split())


def _without_opentelemetry(folder: Path) -> dict[str, str]:
    """Return an environment in which traces are wanted, and the package cannot be imported."""
    (folder / "opentelemetry.py").write_text("raise ImportError(__name__)\n")
    return {
        "FARM_PIPELINE": "simulated",
        "PYTHONPATH": str(folder),
        "OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}",
    }


@pytest.mark.full
def test_an_absent_collector_delays_neither_a_job_nor_the_exit(tmp_path: Path) -> None:
    environment = {"OTEL_EXPORTER_OTLP_ENDPOINT": f"http://127.0.0.1:{free_port()}", "OTEL_BSP_SCHEDULE_DELAY": "50"}

    with running_farm(tmp_path / "data", **environment) as farm:
        assert farm.wait_for_end(farm.submit(num_inference_steps=2))["status"] == "completed"
