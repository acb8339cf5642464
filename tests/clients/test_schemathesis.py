"""Schemathesis calls a running farm by its own OpenAPI document, at and beyond its limits, and checks the answers.

No 5xx, no status, header, type of content or shape that is not described, and nothing taken that the schemas forbid.
"""

from __future__ import annotations

import base64
import io
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from tests.farms import Answer, RunningFarm, clean_environment, farm_command, running_farm

CHECKS = (
    "not_a_server_error",
    "status_code_conformance",
    "content_type_conformance",
    "response_headers_conformance",
    "response_schema_conformance",
    "negative_data_rejection",
)
#: Endless.
STREAM = "/farm/v1/events"
#: Other ids of a model have the same schema and the same route, and so has the queue beside the direct call.
TWINS = r"kontext/max|flux-1-srpo|flux-srpo/image|/fal/queue/fal-ai/.*(srpo|kontext|image|multi)$"
#: A call that was held for as long as may be is answered 504, which is no fault; but then it was taken, so that what
#: the schemas forbid may not get there. The tool's own list lacks 413, 414 and 431, by which what is too long is
#: refused.
SETTINGS = """
[checks.not_a_server_error]
expected-statuses = ["2xx", "3xx", "4xx", "504"]
[checks.negative_data_rejection]
expected-statuses = ["4xx"]
"""
#: What the examples name, so that nothing is looked for outside this machine.
OUTSIDE = "https://you.example"


QUICK = {"FARM_SIMULATED_STEP_MS": "0.1", "FARM_WEBHOOK_ALLOW": "127.0.0.1"}


class KeyedFarm(RunningFarm):
    """A farm with keys on, and a key for it."""

    key = ""

    def call(self, method: str, path: str, body: object = None, **headers: str) -> Answer:
        return super().call(method, path, body, **({"Authorization": f"Bearer {self.key}"} | headers))

    def create(self, name: str) -> str:
        """Return a key."""
        made = farm_command("keys", "create", name, "--data-dir", str(self.data_dir))
        return made.stdout.strip()


@pytest.fixture
def farm(tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[RunningFarm]:
    """Yield a quick farm, which holds direct calls for the seconds that a test chooses."""
    with running_farm(tmp_path / "data", **QUICK, FARM_HOLD_SECONDS=request.param) as farm:
        yield farm


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[KeyedFarm]:
    """Yield a farm with keys on."""
    farm = KeyedFarm(tmp_path / "data", environment=QUICK | {"FARM_AUTH": "keys", "FARM_HOLD_SECONDS": "0.2"})
    farm.start()
    farm.key = farm.create("ada")
    yield farm
    assert farm.stop() == 0


@pytest.fixture
def document(farm: RunningFarm, tmp_path: Path) -> Path:
    return described(farm, tmp_path)


def described(farm: RunningFarm, tmp_path: Path) -> Path:
    """Return the farm's document with images of this machine in its examples and ids that exist."""
    text = farm.call("GET", "/openapi.json").body.decode()
    result = json.loads(text.replace(f"{OUTSIDE}/fox.png", _fox()).replace(OUTSIDE, "http://127.0.0.1:9"))
    jobs = [farm.submit() for _ in range(8)]
    known = {
        "/farm/v1/jobs/": jobs,
        "/api/v3/predictions/": jobs[-1:],
        "/fal/queue/fal-ai/flux/": [_request(farm, "fal-ai/flux/srpo") for _ in range(3)],
        "/fal/queue/fal-ai/flux-pro/": [_request(farm, "fal-ai/flux-pro/kontext/text-to-image") for _ in range(3)],
    }
    ended = [farm.wait_for_end(job_id) for ids in known.values() for job_id in ids]
    known |= {"/files/": [ended[0]["images"][0]["url"].rpartition("/")[2]], "/docs/": ["start.js"]}
    for beginning, ids in known.items():
        for path, methods in result["paths"].items():
            if path.startswith(beginning) and path.count("{") == 1:
                _name(methods, ids)
    path = tmp_path / "openapi.json"
    path.write_text(json.dumps(result))
    return path


def _fox() -> str:
    """Return an image as a data URI."""
    content = io.BytesIO()
    Image.new("RGB", (256, 256), "orange").save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode()}"


def _request(farm: RunningFarm, endpoint: str) -> str:
    request_id: str = farm.call("POST", f"/fal/queue/{endpoint}", {"prompt": "a fox"}).json["request_id"]
    return request_id


def _name(methods: dict[str, Any], ids: list[str]) -> None:
    """Have the operations of a path called with these ids."""
    for operation in methods.values():
        for parameter in operation["parameters"]:
            if parameter["in"] == "path":
                parameter["schema"] = {"enum": ids}


def run(document: Path, farm: RunningFarm, *options: str, checks: tuple[str, ...] = CHECKS, key: str = "any") -> None:
    # One worker: with more, Python 3.11 trips over a bug of its own in the compiler that the tool uses.
    command = [sys.executable, "-m", "schemathesis.cli", "run", str(document), "--url", farm.url, "--workers", "1"]
    # Its example names a file that only an upload would make.
    command += ["--exclude-operation-id", "createBatch"]
    command += ["--checks", ",".join(checks), "--exclude-path", STREAM, "--continue-on-failure", "--no-color"]
    command += ["--request-timeout", "60", "--warnings", "off", "-H", f"Authorization: Bearer {key}", *options]
    (document.parent / "schemathesis.toml").write_text(SETTINGS)
    done = subprocess.run(
        command, cwd=document.parent, env=clean_environment(), capture_output=True, text=True, check=False
    )

    assert done.returncode == 0, f"{done.stdout[-8000:]}\n{done.stderr[-2000:]}"


@pytest.mark.parametrize("farm", ["60"], indirect=True)
def test_the_examples_are_taken(document: Path, farm: RunningFarm) -> None:
    run(document, farm, "--phases", "examples", checks=(*CHECKS, "positive_data_acceptance"))


@pytest.mark.timeout(600)
@pytest.mark.parametrize("farm", ["0.2"], indirect=True)
def test_the_limits_of_what_is_described_hold(document: Path, farm: RunningFarm) -> None:
    """Test as many cases as there is time for; the long test below tests all."""
    run(document, farm, "--phases", "coverage", "--exclude-path-regex", TWINS, "--max-time", "10")


@pytest.mark.full
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("farm", ["0.2"], indirect=True)
def test_whatever_is_sent_the_answer_is_as_described(document: Path, farm: RunningFarm) -> None:
    run(document, farm, "--phases", "coverage,fuzzing", "--max-examples", "40")


@pytest.mark.full
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("whose", ["its own", "another caller's", "an unknown key"])
def test_with_keys_on_it_is_so_too(keyed: KeyedFarm, tmp_path: Path, whose: str) -> None:
    """Call with the key of the named jobs' caller, with another caller's, and with an invalid one."""
    document = described(keyed, tmp_path)
    key = {"its own": keyed.key, "another caller's": keyed.create("bob"), "an unknown key": "srpo-nobody"}[whose]

    run(document, keyed, "--phases", "coverage,fuzzing", "--max-examples", "5", "--max-time", "240", key=key)
