"""`farm render` with a file of requests, or with several values of an option."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from typing import Any

import typer
from rich.console import Console

from farm.cli.batches import BatchClient
from farm.cli.bulk_render import INPUT_FIELDS, BulkRender, Summary
from farm.cli.client import Client
from farm.cli.grid import Axis, columns, grid, seeds_of, values_of
from farm.cli.manifest import JSON_NAME, Row
from farm.cli.output import output_at
from farm.cli.overview import images_text, write_contact_sheets, write_pages
from farm.cli.render_options import OPTIONS, naming_options
from farm.cli.request_fields import ModelNames, image_fields, image_size, takes_several
from farm.cli.request_file import FileRequest, UnusableRequests, refuse_shared_files
from farm.cli.terminal import say_json, show_images
from farm.client.safety_check import check_fields
from farm.domain.catalogue import SRPO, TERMS
from farm.domain.errors import FarmError
from farm.printable import say
from farm.settings import load

#: Fields that a request may set under OpenAI's name.
_OPENAI_NAMES = {"image_size": "size", "num_images": "n"}
#: Failed requests that are listed; the manifest has all of them.
_MAX_LISTED = 20


class RequestsFailed(FarmError):
    """Some requests have no image."""


@dataclass(frozen=True, slots=True)
class Requests:
    """Requests, and what the options say for those that do not say it themselves."""

    requests: Sequence[FileRequest]
    defaults: Mapping[str, Any]
    model: str
    images: Sequence[str]


@dataclass(frozen=True, slots=True)
class BulkOptions:
    """Options of a run: its destination, the parameters to vary, and its output."""

    out: str
    axes: Sequence[Axis] = ()
    has_contact_sheet: bool = False
    cancels: bool = False
    as_json: bool = False
    shows: bool = False


def grid_axes(*, seed: int | None, seeds: str | None, guidance: str | None, steps: str | None) -> list[Axis]:
    """Return the parameters that options set, each with its values. Raises BadParameter."""
    if seeds is not None and seed is not None:
        raise typer.BadParameter("give either --seed or --seeds.")
    axes = []
    if seeds is not None:
        axes.append(Axis("seed", "s", seeds_of("--seeds", seeds)))
    elif seed is not None:
        axes.append(Axis("seed", "s", [seed]))
    if guidance is not None:
        axes.append(Axis("guidance_scale", "g", values_of("--guidance", guidance, float)))
    if steps is not None:
        axes.append(Axis("num_inference_steps", "t", values_of("--steps", steps, int)))
    return [replace(axis, values=list(dict.fromkeys(axis.values))) for axis in axes]


def render_requests(requests: Requests, options: BulkOptions) -> None:
    """Render all requests, and say where the images are. Raises RequestsFailed, and other errors."""
    settings = load()
    client, output = BatchClient(settings), output_at(options.out, settings)
    complete = list(_complete(client, requests, grid(requests.requests, options.axes)))
    refuse_shared_files(complete)
    run = BulkRender(client, output, complete, Console(stderr=True))
    with _on_interrupt(run, cancels=options.cancels):
        summary = run.run(shows_progress=not options.as_json)
    completed = [row for row in summary.rows if row.status == "completed"]
    page = write_pages(output, completed)
    contact_sheets = write_contact_sheets(output, completed, columns(options.axes)) if options.has_contact_sheet else []
    if options.as_json:
        say_json({"out": output.place, "page": page, "requests": [asdict(row) for row in summary.rows]})
    else:
        _report(summary, output.place, [page, *contact_sheets])
    if options.shows:
        show_images(output.read(name) or b"" for row in completed for name in row.files)
    _refuse_failed(summary.failed, _set_by_options(requests))


def _complete(client: Client, requests: Requests, listed: Sequence[FileRequest]) -> Iterator[FileRequest]:
    """Yield the requests with every field of their calls."""
    names = ModelNames(client)
    checks: dict[str, dict[str, bool]] = {}
    for request in listed:
        fields = {"model": requests.model, **_unsaid(requests.defaults, request.fields), **request.fields}
        inputs = _inputs(fields, requests.images, request.line)
        model = fields["model"] = names.model_for(str(fields["model"]), len(inputs))
        fields |= image_fields(inputs, several=takes_several(model))
        fields.setdefault("output_format", TERMS["native"].output_format)
        if isinstance(size := fields.get("image_size"), str):
            fields["image_size"] = image_size(size)
        elif model == SRPO.name and "size" not in fields:
            fields.setdefault("image_size", TERMS["native"].size)
        if "enable_safety_checker" not in fields:
            if model not in checks:
                checks[model] = check_fields(client, model)
            fields |= checks[model]
        yield replace(request, fields=fields)


def _unsaid(defaults: Mapping[str, Any], fields: Mapping[str, Any]) -> dict[str, Any]:
    """Return those defaults that a request does not set itself, under this or OpenAI's name."""
    return {name: value for name, value in defaults.items() if _OPENAI_NAMES.get(name) not in fields}


def _inputs(fields: dict[str, Any], images: Sequence[str], line: int) -> list[str]:
    """Take the input images out of a request's fields; without any, those of the options. Raises UnusableRequests."""
    named: list[str] = []
    for name in INPUT_FIELDS:
        value = fields.pop(name, None)
        named += value if isinstance(value, list) else [value] if value else []
    if not all(isinstance(name, str) for name in named):
        raise UnusableRequests(f"--from, line {line}: an input image must be a text: a URL, or the name of a file.")
    return named or list(images)


@contextmanager
def _on_interrupt(run: BulkRender, *, cancels: bool) -> Iterator[None]:
    """Say on Ctrl-C how to go on, and cancel what runs if that was asked for."""
    try:
        yield
    except KeyboardInterrupt:
        if cancels:
            run.cancel()
            say("Cancelled what was running. The same command goes on from here.", file=sys.stderr)
        else:
            say("The farm goes on. The same command collects what it has rendered.", file=sys.stderr)
        raise


def _report(summary: Summary, place: str, overviews: Sequence[str]) -> None:
    images = sum(len(row.files) for row in summary.rows)
    say(f"{images_text(images)} in {place}, listed in {JSON_NAME}")
    for name in overviews:
        say(f"{place}/{name}")


def _set_by_options(requests: Requests) -> set[str]:
    """Return the fields that only options can have set: no request of the file has them."""
    return OPTIONS.keys() - {field for request in requests.requests for field in request.fields}


def _refuse_failed(failed: Sequence[Row], set_by_options: set[str]) -> None:
    """Raise RequestsFailed if there are failed requests, after listing them."""
    if not failed:
        return
    for row in failed[:_MAX_LISTED]:
        say(f"{row.id}: {naming_options(row.error, set_by_options)}", file=sys.stderr)
    more = f", of which {_MAX_LISTED} are listed" if len(failed) > _MAX_LISTED else ""
    number = "1 request has" if len(failed) == 1 else f"{len(failed)} requests have"
    raise RequestsFailed(f"{number} no image{more}. Correct what is wrong; the same command tries again.")
