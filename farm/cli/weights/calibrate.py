"""`farm weights calibrate`: measure step masks on the weights of the settings, and write the file of the best."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from farm.cli.request_fields import image_size
from farm.domain.calibration import Calibration
from farm.domain.catalogue import MAX_STEPS, SIZE_PRESETS
from farm.domain.errors import ConfigurationError
from farm.process import child


def calibrate(
    out: Annotated[Path, typer.Option(help="File to write.")] = Path("step-masks.json"),
    images: Annotated[int, typer.Option(min=1, help="Number of images that every candidate renders.")] = 24,
    size: Annotated[str, typer.Option(help="A preset such as landscape_4_3, or WxH in pixels.")] = "square",
    steps: Annotated[int, typer.Option(min=1, max=MAX_STEPS, help="Number of denoising steps.")] = 28,
    seed: Annotated[int, typer.Option(help="Seed of the first image; those of the others count up.")] = 0,
    orders: Annotated[
        list[int] | None, typer.Option("--order", help="Degree of the polynomials. Repeat for several. Default: 1, 2.")
    ] = None,
    masks: Annotated[
        list[str] | None,
        typer.Option("--mask", help="A further candidate, a digit per step, 1 for a full one. Repeat."),
    ] = None,
    checked_steps: Annotated[
        list[int] | None,
        typer.Option("--check-steps", help="Measure the chosen masks with so many steps, too. Repeat."),
    ] = None,
    grid: Annotated[
        Path | None, typer.Option(help="JPEG file to show the worst images in, by none, regular and high.")
    ] = None,
    prompts: Annotated[
        Path | None, typer.Option(help="File of prompts, one per line. Default: twelve of the farm's own.")
    ] = None,
) -> None:
    """Measure which steps `acceleration` may skip.

    It depends on your weights. Renders the same images with every
    candidate, and prints time and likeness to the full computation, median
    and worst, beside as many plain steps. For each level it writes the
    candidate whose worst image is best.
    """
    sides = image_size(size)
    width, height = SIZE_PRESETS.get(sides, (0, 0)) if isinstance(sides, str) else (sides["width"], sides["height"])
    try:
        calibration = Calibration(
            out=out.absolute(),
            grid=grid.absolute() if grid else None,
            images=images,
            width=width,
            height=height,
            steps=steps,
            seed=seed,
            orders=tuple(orders or (1, 2)),
            masks=tuple(masks or ()),
            checked_steps=tuple(checked_steps or ()),
            prompts=_lines(prompts) if prompts else (),
        )
    except ValidationError as error:
        problem = error.errors()[0]
        raise typer.BadParameter(
            f"{problem['msg']}: {problem['input']!r}", param_hint=_option(problem["loc"])
        ) from error
    for path, option in ((calibration.out, "--out"), (calibration.grid, "--grid")):
        _refuse_unwritable(path, option)
    if find_spec("torch") is None:
        raise ConfigurationError("torch is not installed; pip install 'srpo-farm[calibrate]'")
    os.execv(sys.executable, child.module("workers.calibration", calibration.model_dump_json()))


def _lines(path: Path) -> tuple[str, ...]:
    try:
        return tuple(line for line in path.read_text("utf-8").splitlines() if line.strip())
    except (OSError, UnicodeError) as error:
        raise typer.BadParameter(f"{path} cannot be read: {error}", param_hint="--prompts") from error


def _refuse_unwritable(path: Path | None, option: str) -> None:
    """Raise BadParameter before hours of measuring if their result could not be written."""
    if path and not (os.access(path.parent, os.W_OK) and not path.is_dir()):
        raise typer.BadParameter(f"{path} cannot be written; name a file in a folder that can", param_hint=option)


def _option(location: tuple[int | str, ...]) -> str:
    """Return the option that sets this field of a calibration."""
    field = str(location[0]) if location else "masks"
    named = {"width": "size", "height": "size", "orders": "order", "masks": "mask", "checked_steps": "check-steps"}
    return f"--{named.get(field, field)}"
