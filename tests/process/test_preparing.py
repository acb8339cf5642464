"""Jobs with input images, in whole farms: rendered, whichever process dies between submit and GPU."""

from __future__ import annotations

import io
import os
import signal
import zlib
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image
from urllib3.filepost import encode_multipart_formdata

from farm.domain.catalogue import KONTEXT_SIZES
from farm.jobstore import redis_keys
from tests.farms import RunningFarm, pids, running_farm, wait_for
from tests.hostile_images import chunk, png_of
from tests.image_host import Host, running_host
from tests.images import data_uri, sample_image

IMAGE = sample_image(320, 256, colour="orange")
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
    """Return the URL of an upload, made as fal's clients make one."""
    ticket = farm.call(
        "POST", "/fal/rest/storage/upload/initiate", {"content_type": "image/png", "file_name": "fox.png"}
    ).json
    assert farm.call("PUT", ticket["upload_url"].removeprefix(farm.url), content, Content_Type="image/png").status < 300
    url: str = ticket["file_url"]
    return url


def preparers(farm: RunningFarm) -> list[int]:
    return pids(f"-m workers.background --data-dir {farm.data_dir}")


def test_images_are_edited_wherever_they_come_from(farm: RunningFarm, host: Host) -> None:
    """They are the same, so what is made of them is the same, too."""
    host.serve("/fox.png", IMAGE)
    named = (host.redirect("/fox", "/fox.png"), data_uri(IMAGE), upload(farm, IMAGE))

    views = [farm.wait_for_end(submit(farm, image_url=url, seed=7, output_format="png")) for url in named]

    assert [view["status"] for view in views] == ["completed"] * 3, views
    assert (views[0]["images"][0]["width"], views[0]["images"][0]["height"]) == KONTEXT_SIZES["4:3"]
    assert len({farm.image(view) for view in views}) == 1


def test_an_image_that_the_farm_made_is_edited(farm: RunningFarm) -> None:
    made = farm.wait_for_end(farm.submit(num_inference_steps=1))["images"][0]["url"]

    assert farm.wait_for_end(submit(farm, image_url=made))["status"] == "completed"


def test_several_images_become_one(farm: RunningFarm, host: Host) -> None:
    urls = [host.serve("/fox.png", IMAGE), data_uri(sample_image(colour="blue"))]

    view = farm.wait_for_end(submit(farm, model="fal-ai/flux-pro/kontext/multi", image_urls=urls))

    assert view["status"] == "completed", view


def test_a_prompt_is_enhanced(farm: RunningFarm) -> None:
    view = farm.wait_for_end(farm.submit(prompt="a fox", enhance_prompt=True, num_inference_steps=1))

    assert view["prompt"].startswith("a fox, ")
    assert view["original_prompt"] == "a fox"


def test_a_url_that_leads_to_no_image_is_named_in_the_error(farm: RunningFarm, host: Host) -> None:
    view = farm.wait_for_end(submit(farm, image_url=host.serve("/fox.png", b"<html>")))

    assert (view["status"], view["code"]) == ("failed", "image_load_error")
    assert view["error"].startswith("image_url (127.0.0.1): ")


def bombs() -> dict[str, list[bytes]]:
    """Return images that would cost too much to decode, or that are no images, by their errors."""
    image = sample_image(form="JPEG")
    unpacks = chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(50_000_000), 9))
    return {
        "image_too_large": [png_of(8001, 8000, rows=b""), png_of(2**31 - 1, 2**31 - 1, rows=b"")],
        "image_load_error": [
            image[: len(image) // 2],
            png_of(20, 20, rows=bytes(60), extra=unpacks),
            image[:2] + b"\xff\xe5\0\2" * 110_000 + image[2:],
            b"<!doctype html><script>alert(1)</script>",
        ],
        "unsupported_image_format": [b'<svg xmlns="http://www.w3.org/2000/svg"/>', b"%PDF-1.7", b"GIF89a"],
        "image_too_small": [sample_image(8, 8)],
    }


def largest() -> bytes:
    """Return a whole image of 64 megapixels, in black and white."""
    content = io.BytesIO()
    Image.new("1", (8000, 8000)).save(content, "PNG")
    return content.getvalue()


def is_told_at_once(farm: RunningFarm, content: bytes, kind: str) -> bool:
    """Return True if a submit with this image is refused for what its headers say."""
    body = {"model": "kontext", "prompt": "x", "image_url": data_uri(content)}
    answer = farm.call("POST", "/farm/v1/jobs", body)
    if answer.status == 202:
        assert farm.wait_for_end(answer.json["id"])["code"] == kind
        return False
    assert (answer.status, answer.json["errors"][0]["type"]) == (422, kind)
    return True


def by_form(farm: RunningFarm, content: bytes) -> int:
    """Return the answer to a form with this image."""
    form, kind = encode_multipart_formdata([("model", "kontext"), ("prompt", "x"), ("image", ("a.png", content))])
    return farm.call("POST", "/v1/images/edits", form, Content_Type=kind).status


def test_no_image_takes_the_preparer_or_another_job_with_it(farm: RunningFarm, host: Host) -> None:
    """Send each as a data URI, in a form, as an upload, and at a URL."""
    (preparer,) = preparers(farm)
    waiting: list[tuple[str, str]] = []
    for kind, contents in bombs().items():
        for number, content in enumerate(contents):
            urls = [host.serve(f"/{kind}{number}", content), upload(farm, content)]
            if is_told_at_once(farm, content, kind):
                assert 400 <= by_form(farm, content) < 500
            waiting += [(submit(farm, image_url=url), kind) for url in urls]
    good = [submit(farm, image_url=data_uri(content)) for content in (IMAGE, largest())]

    assert [farm.wait_for_end(job_id)["code"] for job_id, _ in waiting] == [kind for _, kind in waiting]
    assert [farm.wait_for_end(job_id)["status"] for job_id in good] == ["completed"] * 2
    assert preparers(farm) == [preparer]
    words = Path(f"/proc/{preparer}/status").read_text().split()
    assert int(words[words.index("VmHWM:") + 1]) < 600 * 1024


def test_nothing_is_lost_when_the_preparer_is_killed(tmp_path: Path, host: Host) -> None:
    """In the middle of its work, and again before it has begun."""
    with running_farm(tmp_path / "data", **SETTINGS) as farm:
        held = [submit(farm, image_url=host.hold(f"/{number}", IMAGE)) for number in range(3)]
        sent = submit(farm, image_url=data_uri(IMAGE))
        wait_for(lambda: len(host.asked) == 3)
        (first,) = preparers(farm)
        os.kill(first, signal.SIGKILL)
        waiting = [submit(farm, image_url=data_uri(IMAGE), enhance_prompt=True) for _ in range(3)]
        host.released.set()

        views = [farm.wait_for_end(job_id) for job_id in (*held, sent, *waiting)]

        assert [view["status"] for view in views] == ["completed"] * 7, views
        assert preparers(farm) != [first]
        assert farm.redis.zcard(redis_keys.PREPARING) == 0
