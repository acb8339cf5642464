"""`farm render`: submit a job, show its progress, download its images."""

from __future__ import annotations

import base64
import mimetypes
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from farm.cli.client import CallFailed, Client
from farm.cli.download import Downloader, FinishedJob
from farm.cli.terminal import say_json, show_images, timings_text
from farm.domain.catalogue import (
    KONTEXT_SIZES,
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_STEPS,
    SAFETY_TOLERANCE,
    STRENGTH,
    find,
    for_images,
)
from farm.domain.errors import FarmError
from farm.printable import say
from farm.settings import load

#: Most bytes that the image files of one request may have together. As data URIs they still fit into a body.
MAX_FILE_BYTES = 50_000_000
_URL = re.compile(r"(https?://|data:)", re.IGNORECASE)

#: The option that sets each field of the request: the API's errors name fields, the person typed options.
OPTIONS = {
    "prompt": "PROMPT",
    "model": "--model",
    "num_images": "-n",
    "image_size": "--size",
    "num_inference_steps": "--steps",
    "guidance_scale": "--guidance",
    "seed": "--seed",
    "acceleration": "--acceleration",
    "output_format": "--format",
    "image_url": "--image",
    "image_urls": "--image",
    "strength": "--strength",
    "aspect_ratio": "--aspect-ratio",
    "enhance_prompt": "--enhance",
    "enable_safety_checker": "--safety-checker",
    "safety_tolerance": "--safety-tolerance",
}

#: Shown below the options in the help. The backspace keeps the lines as they are.
EXAMPLES = """\b
Examples:
  farm render "a red fox in fresh snow"
  farm render "the same as a watercolour" --image fox.jpeg --strength 0.6
  farm render "give the fox a blue scarf" --model kontext --image fox.jpeg
  farm render "they meet" --model kontext --image fox.jpeg --image owl.png
"""


class RenderFailed(FarmError):
    """The job failed."""


class UnusableFile(FarmError):
    """A file given with --image cannot be sent."""


def render(
    prompt: Annotated[str, typer.Argument(metavar="PROMPT", help="What to render, or how to change the input images.")],
    number: Annotated[int | None, typer.Option("-n", help=f"Number of images, 1 to {MAX_IMAGES}. Default: 1.")] = None,
    model: Annotated[
        str, typer.Option(help="srpo or kontext, with or without --image, or any id that `farm models` lists.")
    ] = "srpo",
    size: Annotated[str | None, typer.Option(help="A preset such as landscape_4_3, or WxH in pixels.")] = None,
    steps: Annotated[int | None, typer.Option(help=f"Number of denoising steps, up to {MAX_STEPS}.")] = None,
    guidance: Annotated[
        float | None, typer.Option(help=f"How closely to follow the prompt, 1 to {MAX_GUIDANCE}.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same image. Default: random.")] = None,
    acceleration: Annotated[str | None, typer.Option(help="none, regular or high.")] = None,
    form: Annotated[str | None, typer.Option("--format", help="File format: jpeg or png.")] = None,
    images: Annotated[
        list[str] | None,
        typer.Option("--image", metavar="FILE-or-URL", help="Input image. Repeat the option for several images."),
    ] = None,
    strength: Annotated[
        float | None,
        typer.Option(help=f"How much to change the input image, {STRENGTH.min} to {STRENGTH.max}. Only with srpo."),
    ] = None,
    aspect_ratio: Annotated[str | None, typer.Option(help=f"{', '.join(KONTEXT_SIZES)}. Only with kontext.")] = None,
    enhance: Annotated[bool, typer.Option("--enhance", help="Rewrite the prompt in more detail first.")] = False,
    safety_checker: Annotated[
        bool | None,
        typer.Option(
            "--safety-checker/--no-safety-checker", help="Check for unsafe content. Default: if the farm can."
        ),
    ] = None,
    safety_tolerance: Annotated[
        int | None,
        typer.Option(
            help=f"Strictness of the safety checker, {SAFETY_TOLERANCE.min} (strictest) to {SAFETY_TOLERANCE.max}. "
            "Only with kontext."
        ),
    ] = None,
    out: Annotated[Path, typer.Option(help="Folder to save the images in.")] = Path("out"),
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Cancel the job on Ctrl-C. Otherwise it goes on.")
    ] = False,
    shows: Annotated[bool, typer.Option("--show", help="Show the images in the terminal, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON instead of a progress bar.")] = False,
) -> None:
    """Render images from a prompt and download them.

    The model's defaults apply to every option that you leave out. An option
    that the model does not support is an error.
    """
    urls = image_urls(images or [])
    chosen = model_for(model, len(urls))
    fields = {
        "model": chosen,
        "prompt": prompt,
        **image_fields(urls, several=takes_several(chosen)),
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
        "safety_tolerance": safety_tolerance,
    }
    client = Client(load())
    fields["enable_safety_checker"] = checks(client, chosen) if safety_checker is None else safety_checker
    downloader = Downloader(client, out, console=Console(stderr=True), shows_progress=not as_json)
    job_id = _submit(client, {name: value for name, value in fields.items() if value is not None})
    say(f"job: {job_id}", file=sys.stderr)
    with _on_interrupt(client, job_id, cancels=cancel_on_interrupt):
        (job,) = downloader.finish([job_id])
    if as_json:
        say_json({**job.view, "files": [str(path) for path in job.files]})
    else:
        report(job)
    if shows:
        show_images(job.files)
    if job.view["status"] == "failed":
        raise RenderFailed(f"The job failed ({job.view['code']}): {job.view['error']}")


def checks(client: Client, model_id: str) -> bool | None:
    """Return False if this farm has no safety checker, which a request must agree to; None for the model's default."""
    models = client.get("/models")["models"]
    is_unchecked = any(model["served"] and model["safety"] == "off" for model in models if model_id in model["ids"])
    return False if is_unchecked else None


def _submit(client: Client, fields: dict[str, Any]) -> str:
    try:
        job_id: str = client.post("/jobs", fields)["id"]
    except CallFailed as error:
        raise in_options(error) from error
    return job_id


@contextmanager
def _on_interrupt(client: Client, job_id: str, *, cancels: bool) -> Iterator[None]:
    """Say on Ctrl-C what becomes of the job, and cancel it if that was asked for."""
    try:
        yield
    except KeyboardInterrupt:
        if cancels:
            outcome = client.post(f"/jobs/{job_id}/cancel")["outcome"]
            say(f"job {job_id}: {outcome}", file=sys.stderr)
        else:
            say(f"The job goes on. To cancel it: farm jobs cancel {job_id}", file=sys.stderr)
        raise


def in_options(error: CallFailed) -> CallFailed:
    """Return the error with each wrong field named by the option that sets it."""
    if not error.errors:
        return error
    return CallFailed("; ".join(_in_options(problem) for problem in error.errors), error.errors)


def _in_options(problem: dict[str, Any]) -> str:
    field, _, part = str(problem["field"]).partition(".")
    option = OPTIONS.get(field, field)
    if problem["type"] == "extra_forbidden":
        return f"{option}: this model has no such option"
    return f"{option}{f' ({part})' if part else ''}: {problem['message']}"


def model_for(name: str, images: int) -> str:
    """Return the model that `--model NAME` means with this number of input images."""
    model = for_images(name, images)
    return model.name if model else name


def takes_several(model_id: str) -> bool:
    """Return True if the model takes a list of input images."""
    model = find(model_id)
    return model is not None and model.max_inputs > 1


def image_fields(urls: list[str], *, several: bool) -> dict[str, Any]:
    """Return the request's fields for the input images; `several`: the model takes a list, even of one."""
    if several or len(urls) > 1:
        return {"image_urls": urls}
    return {"image_url": urls[0]} if urls else {}


def image_urls(names: list[str]) -> list[str]:
    """Return URLs as they are and files as data URIs. Raises UnusableFile."""
    files = {name: _content(Path(name)) for name in names if not _URL.match(name)}
    total = sum(len(files.get(name, b"")) for name in names)
    if total > MAX_FILE_BYTES:
        raise UnusableFile(
            f"--image: the files are too large; allowed: {MAX_FILE_BYTES} bytes together. Give a URL instead."
        )
    return [_data_uri(name, files[name]) if name in files else name for name in names]


def _content(file: Path) -> bytes:
    try:
        with file.open("rb") as opened:
            return opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise UnusableFile(f"--image: cannot read {file}: {error.strerror}.") from error


def _data_uri(name: str, content: bytes) -> str:
    kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def image_size(text: str) -> str | dict[str, int]:
    """Return `1024x768` as width and height, and anything else as a preset's name, which the farm checks."""
    match = re.fullmatch(r"(\d+)x(\d+)", text)
    return {"width": int(match[1]), "height": int(match[2])} if match else text


def report(job: FinishedJob) -> None:
    """Print each file with the time of every stage, and the job's warnings."""
    view = job.view
    stages = ", ".join(f"{name} {seconds}" for name, seconds in timings_text(view["timings"]).items())
    if view["original_prompt"] not in (None, view["prompt"]):
        say(f"prompt: {view['prompt']}")
    for path in job.files:
        say(f"{path}  ({stages})")
    for warning in view["warnings"]:
        say(f"warning: {warning}")
