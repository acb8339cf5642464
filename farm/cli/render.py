"""`farm render`: submit, watch, download."""

from __future__ import annotations

import base64
import json
import mimetypes
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from farm.cli.client import Client
from farm.cli.download import Followed, Gallery
from farm.domain.catalogue import KONTEXT, KONTEXT_MULTI, KONTEXT_TEXT, SRPO, SRPO_IMAGE
from farm.domain.errors import FarmError
from farm.settings import load

#: Most bytes that the files of one request may have together. As data URIs they still fit into a body.
MOST_BYTES = 50_000_000
#: What `--model` names by a short word: the model for no picture, for one, and for several.
_FAMILIES = {
    "srpo": (SRPO.name, SRPO_IMAGE.name, SRPO_IMAGE.name),
    "kontext": (KONTEXT_TEXT.name, KONTEXT.name, KONTEXT_MULTI.name),
}
_URL = re.compile(r"(https?://|data:)", re.IGNORECASE)


class RenderFailed(FarmError):
    """The job failed."""


class UnusableFile(FarmError):
    """A file that was named as a picture cannot be sent."""


def render(
    prompt: Annotated[str, typer.Argument(help="What to paint, or how to change the pictures.")],
    number: Annotated[int | None, typer.Option("-n", help="How many pictures, 1 to 4; one if left out.")] = None,
    model: Annotated[
        str, typer.Option(help="srpo, kontext (each takes pictures, too), or any id that `farm models` lists.")
    ] = "srpo",
    size: Annotated[str | None, typer.Option(help="A preset such as landscape_4_3, or WxH in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help="Denoising steps, up to 50.")] = None,
    guidance: Annotated[float | None, typer.Option(help="How closely to follow the prompt, 1 to 20.")] = None,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture; random if left out.")] = None,
    acceleration: Annotated[str | None, typer.Option(help="none, regular or high.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="jpeg or png.")] = None,
    images: Annotated[
        list[str] | None,
        typer.Option(
            "--image", metavar="FILE-or-URL", help="A picture to begin from or to edit; give it again for more."
        ),
    ] = None,
    strength: Annotated[
        float | None, typer.Option(help="With srpo and --image: how far from the picture to go, 0.01 to 1.")
    ] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help="With kontext: 21:9, 16:9, 4:3, 3:2, 1:1, … 9:21.")] = None,
    enhance: Annotated[bool, typer.Option("--enhance", help="Have the prompt rewritten in more detail first.")] = False,
    safety_checker: Annotated[
        bool | None, typer.Option("--safety-checker/--no-safety-checker", help="Whether pictures are checked.")
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the job and its files as JSON, no bar.")] = False,
) -> None:
    """Render pictures of a prompt and save them.

    With --image the prompt says what to make of a picture:

    \b
      farm render "a red fox in fresh snow"
      farm render "the same as a watercolour" --image fox.jpeg --strength 0.6
      farm render "give the fox a blue scarf" --model kontext --image fox.jpeg
      farm render "the fox and the owl meet" --model kontext --image fox.jpeg --image owl.png

    What is left out is the farm's to choose. What a model does not take is refused by name.
    """
    urls = picture_urls(images or [])
    meant = model_for(model, len(urls))
    asked = {
        "model": meant,
        "prompt": prompt,
        **pictures(urls, several=meant in KONTEXT_MULTI.ids),
        "image_size": size and image_size(size),
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "num_images": number,
        "seed": seed,
        "acceleration": acceleration,
        "output_format": form,
        "strength": strength,
        "aspect_ratio": aspect_ratio,
        "enhance_prompt": enhance or None,
        "enable_safety_checker": safety_checker,
    }
    client = Client(load())
    gallery = Gallery(client, out, console=Console(stderr=True), shows_progress=not as_json)
    job_id = client.post("/jobs", {name: value for name, value in asked.items() if value is not None})["id"]
    (followed,) = gallery.follow([job_id])
    if as_json:
        print(json.dumps({**followed.view, "files": [str(path) for path in followed.files]}, indent=2))
    else:
        report(followed)
    if followed.view["status"] == "failed":
        raise RenderFailed(f"{followed.view['code']}: {followed.view['error']}")


def model_for(name: str, pictures: int) -> str:
    """The model that is meant by `name`, if so many pictures are given."""
    return _FAMILIES[name][min(pictures, 2)] if name in _FAMILIES else name


def pictures(urls: list[str], *, several: bool) -> dict[str, Any]:
    """The fields that name the pictures; `several`: the model takes a list, even of one."""
    if several or len(urls) > 1:
        return {"image_urls": urls}
    return {"image_url": urls[0]} if urls else {}


def picture_urls(named: list[str]) -> list[str]:
    """URLs as they are, files as data URIs. Raises UnusableFile."""
    files = {name: _content(Path(name)) for name in named if not _URL.match(name)}
    total = sum(len(files.get(name, b"")) for name in named)
    if total > MOST_BYTES:
        raise UnusableFile(f"--image: the files are too large; allowed: {MOST_BYTES} bytes together, or any URL")
    return [_data_uri(name, files[name]) if name in files else name for name in named]


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MOST_BYTES + 1)
    except OSError as error:
        raise UnusableFile(f"--image: {file} is no file that can be read: {error.strerror}") from error


def _data_uri(name: str, content: bytes) -> str:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_size(text: str) -> str | dict[str, int]:
    """`1024x768` as sides; anything else is a preset's name, and the farm says whether it knows it."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    return {"width": int(match[1]), "height": int(match[2])} if match else text


def report(followed: Followed) -> None:
    """Where the pictures are, and how long each stage took."""
    view = followed.view
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in view["timings"].items())
    if view["original_prompt"] not in (None, view["prompt"]):
        print(f"prompt: {view['prompt']}")
    for path in followed.files:
        print(f"{path}  ({stages})")
    for warning in view["warnings"]:
        print(f"warning: {warning}")
