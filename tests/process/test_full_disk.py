"""A whole farm on a full disk: it refuses what it could lose, loses nothing that it accepted, and recovers."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from urllib3 import encode_multipart_formdata

from farm.cli.figures import Figures
from farm.process.child import EXIT_CONFIG
from farm.process.embedded_redis import EmbeddedRedis
from tests.farms import Answer, RunningFarm, clean_environment, farm_command, free_port, running_farm, wait_for
from tests.images import sample_image
from tests.small_disk import SmallDisk, small_disk

#: What would be recorded, and the word for the full disk in the answer to each.
REFUSED = {
    "/farm/v1/jobs": ({"model": "srpo", "prompt": "a fox"}, b"disk_full"),
    "/farm/v1/keys": ({"name": "ada"}, b"disk_full"),
    "/fal/queue/fal-ai/flux/srpo": ({"prompt": "a fox"}, b"too little space"),
    "/fal/rest/storage/upload/initiate": ({"content_type": "image/png", "file_name": "a.png"}, b"too little space"),
    "/api/v3/wavespeed-ai/flux-srpo": ({"prompt": "a fox"}, b"too little space"),
    "/v1/images/generations": ({"model": "srpo", "prompt": "a fox"}, b"disk_full"),
}


@pytest.fixture
def disk(data_dir: Path) -> Iterator[SmallDisk]:
    with small_disk(data_dir, mebibytes=96) as disk:
        if disk is None:
            pytest.skip("this machine mounts no small disk; only root may")
        yield disk


def test_a_farm_survives_a_full_disk(disk: SmallDisk) -> None:
    with running_farm(disk.folder, 1, FARM_SIMULATED_STEP_MS="50", FARM_LEASE_SECONDS="2") as farm:
        kept = farm.submit(num_inference_steps=1)
        farm.wait_for_end(kept)
        accepted = [farm.submit(num_inference_steps=20, prompt=f"fox {number}") for number in range(3)]
        farm.wait_for_state(accepted[0], "processing")

        disk.fill()
        refusals = {path: farm.call("POST", path, body) for path, (body, _) in REFUSED.items()}
        body, content_type = encode_multipart_formdata({"file": ("a.png", sample_image(), "image/png")})
        upload = farm.call("POST", "/api/v3/media/upload/binary", body, Content_Type=content_type)
        figures = Figures(farm.call("GET", "/metrics").body.decode())
        deleted = farm.call("DELETE", f"/farm/v1/jobs/{kept}")
        restart_redis(farm)
        states = [farm.job(job_id)["status"] for job_id in accepted]
        disk.free()
        ends = [farm.wait_for_end(job_id) for job_id in accepted]

        assert {path: is_refused(path, answer) for path, answer in refusals.items()} == dict.fromkeys(REFUSED, True)
        assert upload.status == 503
        assert figures.total("farm_disk_free_bytes") < figures.total("farm_disk_reserve_bytes", refused="jobs")
        assert (deleted.status, farm.call("GET", f"/farm/v1/jobs/{kept}").status) == (204, 404)
        assert "completed" not in states
        assert [view["status"] for view in ends] == ["completed"] * 3
        assert all(farm.image(view) for view in ends)
        assert farm.wait_for_end(farm.submit())["status"] == "completed"


def is_refused(path: str, answer: Answer) -> bool:
    return answer.status == 503 and "retry-after" in answer.headers and REFUSED[path][1] in answer.body


def restart_redis(farm: RunningFarm) -> None:
    """Kill Redis, which the farm starts again on the full disk."""
    (redis_pid,) = farm.redis_pids()
    os.kill(redis_pid, signal.SIGKILL)
    wait_for(lambda: farm.redis_pids() not in ([], [redis_pid]), what="a new Redis")
    wait_for(lambda: farm.call("GET", "/readyz").status == 200, what="readiness")


def test_a_start_on_a_full_disk_is_one_line_that_the_doctor_says_too(disk: SmallDisk) -> None:
    disk.fill()
    options = ["--data-dir", str(disk.folder), "--port", str(free_port())]

    started = farm_command("up", *options, environment={"FARM_PIPELINE": "simulated"})
    examined = farm_command("doctor", *options, environment={"FARM_PIPELINE": "simulated"})

    assert (started.returncode, started.stderr.count("\n")) == (EXIT_CONFIG, 1)
    assert "No space left on device" in started.stderr
    assert "\u2717 disk" in examined.stdout


@pytest.mark.full
def test_an_api_that_starts_on_a_full_disk_says_so_in_one_line(disk: SmallDisk) -> None:
    redis = EmbeddedRedis(disk.folder)
    redis.start()
    try:
        disk.fill()
        api = [sys.executable, "-m", "api", "--port", str(free_port()), "--data-dir", str(disk.folder)]
        started = subprocess.run(api, env=clean_environment(), capture_output=True, text=True, timeout=60, check=False)
        examined = farm_command("doctor", "--data-dir", str(disk.folder), environment={"FARM_PIPELINE": "simulated"})
    finally:
        redis.stop()

    lines = [line for line in started.stderr.splitlines() if line.startswith("farm api: ")]
    assert (started.returncode, len(lines)) == (3, 1), started.stderr
    assert "No space left on device" in lines[0]
    assert "Traceback" not in started.stderr + examined.stdout + examined.stderr
    assert "\u2717 disk" in examined.stdout
