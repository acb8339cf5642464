"""`farm render`: submit, watch, download."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from farm.cli.client import Client
from farm.cli.gallery import Followed, Gallery
from farm.errors import FarmError
from farm.settings import load


class RenderFailed(FarmError):
    """The job failed."""


def render(
    prompt: Annotated[str, typer.Argument(help="What to paint.")],
    number: Annotated[int, typer.Option("-n", help="How many pictures, 1 to 4.")] = 1,
    model: Annotated[str, typer.Option(help="A model's id; see `farm models`.")] = "srpo",
    size: Annotated[str, typer.Option(help="A preset, or WxH in pixels.")] = "landscape_4_3",
    steps: Annotated[int, typer.Option(help="Denoising steps.")] = 28,
    guidance: Annotated[float, typer.Option(help="How closely to follow the prompt.")] = 4.5,
    seed: Annotated[int | None, typer.Option(help="Same seed, same picture; random if left out.")] = None,
    acceleration: Annotated[str, typer.Option(help="none, regular or high.")] = "none",
    form: Annotated[str, typer.Option("--format", help="jpeg or png.")] = "jpeg",
    safety_checker: Annotated[bool, typer.Option("--safety-checker/--no-safety-checker")] = True,
    out: Annotated[Path, typer.Option(help="Folder for the pictures.")] = Path("out"),
    as_json: Annotated[bool, typer.Option("--json", help="Print the job and its files as JSON, no bar.")] = False,
) -> None:
    """Render pictures of a prompt and save them."""
    body: dict[str, Any] = {
        "model": model,
        "prompt": prompt,
        "image_size": image_size(size),
        "num_inference_steps": steps,
        "guidance_scale": guidance,
        "num_images": number,
        "acceleration": acceleration,
        "output_format": form,
        "enable_safety_checker": safety_checker,
    }
    if seed is not None:
        body["seed"] = seed
    client = Client(load())
    job_id = client.post("/jobs", body)["id"]
    gallery = Gallery(client, out, console=Console(stderr=True), shows_progress=not as_json)
    (followed,) = gallery.follow([job_id])
    if as_json:
        print(json.dumps({**followed.view, "files": [str(path) for path in followed.files]}, indent=2))
    else:
        report(followed)
    if followed.view["status"] == "failed":
        raise RenderFailed(f"{followed.view['code']}: {followed.view['error']}")


def image_size(text: str) -> str | dict[str, int]:
    """`1024x768` as sides; anything else is a preset's name, and the farm says whether it knows it."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    return {"width": int(match[1]), "height": int(match[2])} if match else text


def report(followed: Followed) -> None:
    """Where the pictures are, and how long each stage took."""
    stages = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in followed.view["timings"].items())
    for path in followed.files:
        print(f"{path}  ({stages})")
    for warning in followed.view["warnings"]:
        print(f"warning: {warning}")
