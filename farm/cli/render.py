"""`farm render`: submit a job or a file of requests, show the progress, download the images."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from farm.cli.client import CallFailed, Client
from farm.cli.download import Downloader, FinishedJob, slug
from farm.cli.output import BUCKET
from farm.cli.render_options import in_options
from farm.cli.render_requests import BulkOptions, Requests, grid_axes, render_requests
from farm.cli.request_fields import ModelNames, image_fields, image_size, image_urls, takes_several
from farm.cli.request_file import FileRequest, read_requests
from farm.cli.terminal import say_json, show_images, timings_text
from farm.client.safety_check import check_fields
from farm.domain.catalogue import (
    KONTEXT_SIZES,
    MAX_GUIDANCE,
    MAX_IMAGES,
    MAX_STEPS,
    SAFETY_TOLERANCE,
    STRENGTH,
)
from farm.domain.errors import FarmError
from farm.printable import say
from farm.settings import load


class RenderFailed(FarmError):
    """The job failed."""


def render(
    prompt: Annotated[
        str | None, typer.Argument(metavar="PROMPT", help="What to render, or how to change the input images.")
    ] = None,
    source: Annotated[
        str | None,
        typer.Option(
            "--from",
            metavar="FILE",
            help="Render every request of a file, or of the standard input (-), instead of PROMPT: JSONL, CSV, or a "
            "prompt a line. The same command again continues where it stopped, and tries failed requests again.",
        ),
    ] = None,
    number: Annotated[int | None, typer.Option("-n", help=f"Number of images, 1 to {MAX_IMAGES}. Default: 1.")] = None,
    model: Annotated[
        str, typer.Option(help="srpo or kontext, with or without --image, or any id that `farm models` lists.")
    ] = "srpo",
    size: Annotated[str | None, typer.Option(help="A preset such as landscape_4_3, or WxH in pixels.")] = None,
    steps: Annotated[
        str | None, typer.Option(help=f"Number of denoising steps, up to {MAX_STEPS}, or several: 10,20,40.")
    ] = None,
    guidance: Annotated[
        str | None, typer.Option(help=f"How closely to follow the prompt, 1 to {MAX_GUIDANCE}, or several: 3,4.5.")
    ] = None,
    seed: Annotated[int | None, typer.Option(help="The same seed gives the same image. Default: random.")] = None,
    seeds: Annotated[str | None, typer.Option(help="Several seeds: 1-8 or 3,5,9. Renders every combination.")] = None,
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
    out: Annotated[str, typer.Option(help="Folder to save the images in, or s3://bucket/prefix.")] = "out",
    has_contact_sheet: Annotated[
        bool, typer.Option("--sheet", help="Write a contact sheet, too: small copies of all images on a page.")
    ] = False,
    cancel_on_interrupt: Annotated[
        bool, typer.Option("--cancel-on-interrupt", help="Cancel the job on Ctrl-C. Otherwise it goes on.")
    ] = False,
    shows: Annotated[bool, typer.Option("--show", help="Show the images in the terminal, too.")] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the job as JSON instead of a progress bar.")] = False,
) -> None:
    """Render images of a prompt or of a file of requests.

    Shows the progress and downloads the images.

    The model's defaults apply to every option that you leave out. An option
    that the model does not support is an error.
    """
    axes = grid_axes(seed=seed, seeds=seeds, guidance=guidance, steps=steps)
    fields = {
        "prompt": prompt,
        "image_size": size and image_size(size),
        "num_images": number,
        "acceleration": acceleration,
        "output_format": form,
        "strength": strength,
        "aspect_ratio": aspect_ratio,
        "enhance_prompt": enhance or None,
        "enable_safety_checker": safety_checker,
        "safety_tolerance": safety_tolerance,
    }
    several = [axis for axis in axes if len(axis.values) > 1]
    single = {axis.field: axis.values[0] for axis in axes if len(axis.values) == 1}
    given = {name: value for name, value in fields.items() if value is not None} | single
    if (prompt is None) == (source is None):
        raise typer.BadParameter("give either PROMPT or --from FILE.")
    if source or several or has_contact_sheet or out.startswith(BUCKET):
        requests = read_requests(source) if source else [FileRequest(slug(prompt or ""), {})]
        options = BulkOptions(out, several, has_contact_sheet, cancel_on_interrupt, as_json, shows)
        render_requests(Requests(requests, given, model, images or []), options)
        return
    urls = image_urls(images or [])
    _render_one(
        given,
        model,
        urls,
        out=Path(out),
        cancels=cancel_on_interrupt,
        as_json=as_json,
        shows=shows,
    )


def _render_one(
    given: dict[str, Any], model: str, urls: list[str], *, out: Path, cancels: bool, as_json: bool, shows: bool
) -> None:
    """Render one job, and download its images."""
    client = Client(load())
    model = ModelNames(client).model_for(model, len(urls))
    fields = {"model": model, **image_fields(urls, several=takes_several(model)), **given}
    if "enable_safety_checker" not in fields:
        fields |= check_fields(client, model)
    downloader = Downloader(client, out, console=Console(stderr=True), shows_progress=not as_json)
    job_id = _submit(client, fields)
    say(f"job: {job_id}", file=sys.stderr)
    with _on_interrupt(client, job_id, cancels=cancels):
        (job,) = downloader.finish([job_id])
    if as_json:
        say_json({**job.view, "files": [str(path) for path in job.files]})
    else:
        report(job)
    if shows:
        show_images(file.read_bytes() for file in job.files)
    if job.view["status"] == "failed":
        raise RenderFailed(f"The job failed ({job.view['code']}): {job.view['error']}")


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
