"""No key in any log, nor in any file of the farm: however it is sent, and with every logger at its most verbose."""

from __future__ import annotations

import base64
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.farms import RunningFarm, farm_command, running_farm, wait_for

#: Run by every process of the farm when it starts: nothing keeps a logger quiet.
TALKATIVE = """
import logging
quieten = logging.Logger.setLevel
logging.Logger.setLevel = lambda logger, level: quieten(logger, logging.DEBUG)
"""


@pytest.fixture(scope="module")
def talkative(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """Yield a farm with keys that logs as much as possible."""
    folder = tmp_path_factory.mktemp("talkative")
    (folder / "sitecustomize.py").write_text(TALKATIVE)
    environment = {"FARM_AUTH": "keys", "FARM_SIMULATED_STEP_MS": "1", "PYTHONPATH": str(folder)}
    with running_farm(folder / "data", **environment) as farm:
        yield farm


@pytest.fixture(scope="module")
def key(talkative: RunningFarm) -> str:
    made = farm_command("keys", "create", "ada", "--rate", "1000", "--data-dir", str(talkative.data_dir))
    assert made.returncode == 0, made.stderr
    return made.stdout.strip()


def heads(key: str) -> list[str]:
    """Return requests with the key in many parts, most of them wrong, without the end of their heads."""
    basic = base64.b64encode(f"{key}:".encode()).decode()
    shown = [
        *(
            f"Authorization: {text}"
            for text in (key, f"bearer {key}", f"Key {key} {key}", f"Basic {basic}", f"Bearer\t{key}")
        ),
        f"Cookie: key={key}",
        f"X-Api-Key: {key}",
        f"X-Request-Id: {key}",
        f"User-Agent: {key}",
        f"X-Forwarded-For: {key}",
        f"X-Fal-Target-Url: https://queue.fal.run/{key}?token={key}",
        # No header at all, in one way or another.
        f"Authorization : Bearer {key}",
        f"Authorization\r\n {key}",
        f"Content-Length: {key}",
        f"Transfer-Encoding: {key}",
        f"Expect: {key}",
        f"Host: {key}@x",
    ]
    places = ["/farm/v1/jobs", "/fal/proxy", "/v1/models"]
    odd = [f"/farm/v1/jobs?api_key={key}", f"/fal/queue/x?fal_jwt_token={key}", f"/files/{key}", f"/farm/v1/jobs/{key}"]
    return [
        *(f"GET {place} HTTP/1.1\r\nHost: localhost\r\n{header}" for place in places for header in shown),
        *(f"{method} {path} HTTP/1.1\r\nHost: localhost" for method in ("GET", "POST") for path in odd),
        f"GET /{key} HTTP/9.9",
        f"{key} / HTTP/1.1",
    ]


def ask(farm: RunningFarm, head: str) -> int:
    """Return the status of the answer, 0 if there is none."""
    with socket.create_connection(("127.0.0.1", farm.port), timeout=30) as line:
        line.sendall(f"{head}\r\nConnection: close\r\n\r\n".encode())
        answer = line.makefile("rb").readline()
    return int(answer.split()[1]) if answer else 0


def files_with(folder: Path, *secrets: str) -> list[str]:
    """Return the files below a folder that contain any of these texts."""
    found = [path for path in folder.parent.rglob("*") if path.is_file()]
    return [path.name for path in found if any(secret.encode() in path.read_bytes() for secret in secrets)]


def test_a_key_is_in_no_log_and_in_no_file(talkative: RunningFarm, key: str) -> None:
    secret = key.split("_", 2)[2]
    bearer = {"Authorization": f"Bearer {key}"}

    statuses = {ask(talkative, head) for head in heads(key)}
    job = talkative.call("POST", "/farm/v1/jobs", {"model": "srpo", "prompt": "a fox"}, **bearer)
    wrong = talkative.call("POST", "/farm/v1/jobs", {"model": "srpo", "prompt": "a fox", "api_key": key}, **bearer)
    token = talkative.call("POST", "/fal/rest/storage/auth/token", {}, **bearer).json["token"]
    sent = talkative.call(
        "POST", "/fal/cdn/files/upload", b"file", Authorization=f"Bearer {token}", Content_Type="text/x"
    )
    environment = {"FARM_URL": talkative.url, "FARM_API_KEY": key}
    result = [
        farm_command(*words, environment=environment)
        for words in (["jobs", "list"], ["doctor", "--data-dir", str(talkative.data_dir)])
    ]
    wait_for(
        lambda: talkative.call("GET", f"/farm/v1/jobs/{job.json['id']}", **bearer).json["status"] == "completed",
        seconds=60,
    )

    assert (job.status, wrong.status, sent.status) == (202, 422, 200)
    assert {200, 400, 401} <= statuses
    assert not any(status >= 500 for status in statuses - {501})
    log = talkative.log.read_text()
    assert '"level": "debug"' in log  # else this would prove nothing
    assert files_with(talkative.data_dir, secret, token) == []
    assert not any(secret in done.stdout + done.stderr for done in result)


def test_nothing_a_proxy_may_have_said_is_believed_unless_it_is_known(talkative: RunningFarm, key: str) -> None:
    """Headers from this machine are not trusted either, as gunicorn would by itself."""
    headers = {
        "Authorization": f"Key {key}",
        "Host": f"queue.localhost:{talkative.port}",
        "X-Forwarded-Proto": "https",
        "X-Forwarded-Host": "queue.evil.example",
        "X-Forwarded-For": "203.0.113.9",
    }

    answer = talkative.call("POST", "/fal-ai/flux/srpo", {"prompt": "a fox", "num_inference_steps": 10}, **headers)

    assert answer.status == 200, answer.body
    assert answer.json["status_url"].startswith(f"http://queue.localhost:{talkative.port}/fal-ai/flux/requests/")
