"""`python -m miniature`: train the miniature, evaluate it, write the folder that the farm loads."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Annotated

import torch
import typer

from farm import clock
from farm.errors import FarmError
from miniature import autoencoder, bundle, checker, editor, evaluation, judge, painter
from miniature.dataset import Dataset, prepare
from miniature.feed import Machine
from miniature.recipe import RECIPE, Recipe

#: So many times as many pictures in a step on a GPU.
_ON_GPU = 8
#: Trains for so many minutes at most; says whether it is finished.
Stage = Callable[[float], bool]
Run = Annotated[Path, typer.Option(help="Folder of the training: checkpoints, curves, prepared pictures.")]

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def train(
    run: Run = Path("out/miniature"),
    minutes: Annotated[float, typer.Option(help="Stop after so long, and go on next time.")] = 360,
    device: Annotated[str, typer.Option(help="cpu; or cuda, with more pictures in a step.")] = "cpu",
    threads: Annotated[int, typer.Option(help="Threads of torch; on a busy machine 1 is faster.")] = 2,
) -> None:
    """Train each part until its plan is fulfilled, one after the other; a second call goes on."""
    torch.set_num_threads(threads)
    on_cpu = device == "cpu"
    machine = Machine(device, drawers=0 if on_cpu else os.cpu_count() or 1)
    ends = clock.monotonic() + 60 * minutes
    for name, stage in _stages(run, RECIPE if on_cpu else RECIPE.larger(_ON_GPU), machine).items():
        left = (ends - clock.monotonic()) / 60
        typer.echo(f"{name}: at most {left:.0f} minutes")
        if not stage(left):
            typer.echo(f"{name} is not finished; the same command goes on.")
            raise typer.Exit(1)
    typer.echo("All parts are trained.")


def _stages(run: Path, recipe: Recipe, machine: Machine) -> dict[str, Stage]:
    def prepare_pictures(minutes: float) -> bool:
        vae = autoencoder.trained(run / "autoencoder", recipe)
        return prepare(run / "dataset", vae, recipe.pictures | recipe.edits, recipe.in_file, machine, minutes)

    return {
        "judge": lambda minutes: judge.train(run / "judge", recipe, machine, minutes),
        "checker": lambda minutes: checker.train(run / "checker", recipe, machine, minutes),
        "autoencoder": lambda minutes: autoencoder.train(run / "autoencoder", recipe, machine, minutes),
        "dataset": prepare_pictures,
        "painter": lambda minutes: painter.train(run / "painter", Dataset(run / "dataset"), recipe, machine, minutes),
        "editor": lambda minutes: editor.train(run, recipe, machine, minutes),
    }


@app.command()
def evaluate(
    run: Run = Path("out/miniature"),
    number: Annotated[int, typer.Option(help="Pictures for each figure.")] = 200,
) -> None:
    """Print how well the run's parts do; leave a contact sheet in its folder; exit 1 where a figure is missed."""
    figures = evaluation.find_forbidden(checker.trained(run / "checker"), number)
    pipeline = bundle.pipeline(run, RECIPE)
    paint = evaluation.painter_of(pipeline)
    looks, scenes = judge.trained(run / "judge"), evaluation.asked_for(number)
    figures += evaluation.follow_prompts(paint, looks, scenes)
    # A change takes five times as long as a picture: what is read is as large as what is painted.
    change = evaluation.editor_of(bundle.kontext(run, RECIPE))
    figures += evaluation.follow_edits(change, looks, scenes[: number // 4])
    for figure in figures:
        typer.echo(str(figure))
    evaluation.contact_sheet(pipeline).save(run / "sheet.png")
    typer.echo(f"{run / 'sheet.png'}")
    raise typer.Exit(0 if all(figure.is_good for figure in figures) else 1)


@app.command(name="bundle")
def write_bundle(target: Path, run: Run = Path("out/miniature")) -> None:
    """Write the run's parts into a folder of FLUX.1-dev's layout."""
    bundle.save(run, RECIPE, target)


if __name__ == "__main__":
    try:
        app()
    except FarmError as error:
        sys.exit(str(error))
