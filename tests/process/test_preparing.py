"""Jobs that bring pictures, in whole farms: rendered, whoever dies between their submit and the GPU."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from farm.catalogue import KONTEXT_SIZES
from farm.jobstore import keys
from tests.farms import RunningFarm, pids, running_farm, wait_for
from tests.host import Host, running_host
from tests.pictures import a_picture, data_uri

PICTURE = a_picture(320, 256, colour="orange")
SETTINGS = {"FARM_SIMULATED_STEP_MS": "1", "FARM_WEBHOOK_ALLOW": "127.0.0.1", "FARM_LEASE_SECONDS": "2"}


@pytest.fixture(scope="module")
def farm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    with running_farm(tmp_path_factory.mktemp("preparing") / "data", **SETTINGS) as farm:
        yield farm


@pytest.fixture
def host() -> Iterator[Host]:
    with running_host() as host:
        yield host


def submit(farm: RunningFarm, **fields: object) -> str:
    answer = farm.call("POST", "/farm/v1/jobs", {"model": "kontext", "prompt": "make it blue"} | fields)
    assert answer.status == 202, answer.body
    job_id: str = answer.json["id"]
    return job_id


def upload(farm: RunningFarm, content: bytes) -> str:
    """The URL of an upload, made as fal's clients make one."""
    ticket = farm.call(
        "POST", "/fal/rest/storage/upload/initiate", {"content_type": "image/png", "file_name": "fox.png"}
    ).json
    assert farm.call("PUT", ticket["upload_url"].removeprefix(farm.url), content, Content_Type="image/png").status < 300
    url: str = ticket["file_url"]
    return url


def preparers(farm: RunningFarm) -> list[int]:
    return pids(f"-m workers.webhooks --data-dir {farm.data_dir}")


def test_pictures_are_edited_wherever_they_come_from(farm: RunningFarm, host: Host) -> None:
    """They are the same, so what is made of them is the same, too."""
    host.serve("/fox.png", PICTURE)
    named = (host.redirect("/fox", "/fox.png"), data_uri(PICTURE), upload(farm, PICTURE))

    views = [farm.wait_for_end(submit(farm, image_url=url, seed=7, output_format="png")) for url in named]

    assert [view["status"] for view in views] == ["completed"] * 3, views
    assert (views[0]["images"][0]["width"], views[0]["images"][0]["height"]) == KONTEXT_SIZES["4:3"]
    assert len({farm.picture(view) for view in views}) == 1


def test_a_picture_that_the_farm_made_is_edited(farm: RunningFarm) -> None:
    made = farm.wait_for_end(farm.submit(num_inference_steps=1))["images"][0]["url"]

    assert farm.wait_for_end(submit(farm, image_url=made))["status"] == "completed"


def test_several_pictures_become_one(farm: RunningFarm, host: Host) -> None:
    urls = [host.serve("/fox.png", PICTURE), data_uri(a_picture(colour="blue"))]

    view = farm.wait_for_end(submit(farm, model="fal-ai/flux-pro/kontext/multi", image_urls=urls))

    assert view["status"] == "completed", view


def test_a_prompt_is_enhanced(farm: RunningFarm) -> None:
    view = farm.wait_for_end(farm.submit(prompt="a fox", enhance_prompt=True, num_inference_steps=1))

    assert view["prompt"].startswith("a fox, ")
    assert view["original_prompt"] == "a fox"


def test_what_is_at_the_url_is_told_where_it_is_no_picture(farm: RunningFarm, host: Host) -> None:
    view = farm.wait_for_end(submit(farm, image_url=host.serve("/fox.png", b"<html>")))

    assert (view["status"], view["code"]) == ("failed", "image_load_error")
    assert view["error"].startswith("image_url (127.0.0.1): ")


def test_nothing_is_lost_when_the_preparer_is_killed(tmp_path: Path, host: Host) -> None:
    """In the middle of its work, and again before it has begun."""
    with running_farm(tmp_path / "data", **SETTINGS) as farm:
        held = [submit(farm, image_url=host.hold(f"/{number}", PICTURE)) for number in range(3)]
        sent = submit(farm, image_url=data_uri(PICTURE))
        wait_for(lambda: len(host.asked) == 3)
        (first,) = preparers(farm)
        os.kill(first, signal.SIGKILL)
        waiting = [submit(farm, image_url=data_uri(PICTURE), enhance_prompt=True) for _ in range(3)]
        host.released.set()

        views = [farm.wait_for_end(job_id) for job_id in (*held, sent, *waiting)]

        assert [view["status"] for view in views] == ["completed"] * 7, views
        assert preparers(farm) != [first]
        assert farm.redis.zcard(keys.PREPARING) == 0
