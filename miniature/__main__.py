"""`python -m miniature`: train the miniature into a folder that the farm could load, and evaluate one."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Annotated

import torch
import typer

from farm import clock
from farm.domain.errors import FarmError
from miniature import autoencoder, bundle, checker, denoiser, editor, evaluation, shape_classifier, text_encoders
from miniature.batches import Machine
from miniature.checker_examples import prepare_rendered
from miniature.dataset import prepare
from miniature.evaluation import Figure, Speed
from miniature.recipe import RECIPE, Recipe
from workers.checkers.safety_classifier import SafetyClassifier
from workers.pipelines.engine import keep_to_this_machine
from workers.pipelines.loading import load_miniature
from workers.pipelines.miniature import HOME
from workers.pipelines.miniature import checker as checker_file
from workers.pipelines.pipeline import Pipeline

#: Factor of images per step on a GPU.
_ON_GPU = 8
#: Trains for at most so many minutes; returns True if it is finished.
Stage = Callable[[float], bool]
Run = Annotated[Path, typer.Option(help="Folder of the training: checkpoints, curves, prepared images.")]

Minutes = Annotated[float, typer.Option(help="Stop after so long, and go on next time.")]
Device = Annotated[str, typer.Option(help="cpu; or cuda, with more images in a step.")]
Threads = Annotated[int, typer.Option(help="Threads of torch; on a busy machine 1 is faster.")]

app = typer.Typer(add_completion=False, help=__doc__)


@app.command()
def train(
    run: Run = Path("out/miniature"),
    minutes: Minutes = 360,
    device: Device = "cpu",
    threads: Threads = 2,
    edits: Annotated[bool, typer.Option(help="Train Kontext to change images, too.")] = True,
) -> None:
    """Train each part until its plan is fulfilled, one after the other; a second call goes on."""
    recipe = RECIPE if edits else RECIPE.without_edits()
    _train(partial(_stages, run), recipe, device, threads, minutes)
    checker.save(run / "checker", checker_file(run / "weights"), bundle.ORIGIN)
    typer.echo(f"All parts are trained; the farm's are in {HOME}, these in {run / 'weights'}.")


@app.command()
def train_checker(
    home: Annotated[Path, typer.Option(help="Folder of the weights whose images it checks.")] = HOME,
    run: Run = Path("out/checker"),
    minutes: Minutes = 120,
    device: Device = "cpu",
    threads: Threads = 2,
) -> None:
    """Train their safety checker further, on drawn scenes and on ones that they render; a second call goes on."""
    _train(partial(_checker_stages, home, run, checker_file(home)), RECIPE, device, threads, minutes)
    checker.save(run / "checker", run / "checker.safetensors", bundle.ORIGIN)
    typer.echo(f"The checker is trained. To bundle it: cp {run / 'checker.safetensors'} {checker_file()}")


def _train(
    stages_of: Callable[[Recipe, Machine], dict[str, Stage]], recipe: Recipe, device: str, threads: int, minutes: float
) -> None:
    """Run the stages one after the other. Raises Exit when the time is up."""
    keep_to_this_machine()
    on_cpu = device == "cpu"
    machine = Machine(device, drawing_processes=0 if on_cpu else os.cpu_count() or 1)
    ends = clock.monotonic() + 60 * minutes
    for name, stage in stages_of(recipe if on_cpu else recipe.larger(_ON_GPU), machine).items():
        torch.set_num_threads(threads)  # anew: a stage that renders has one
        left = (ends - clock.monotonic()) / 60
        typer.echo(f"{name}: at most {left:.0f} minutes")
        if not stage(left):
            typer.echo(f"{name} is not finished; the same command goes on.")
            raise typer.Exit(1)


def _stages(run: Path, recipe: Recipe, machine: Machine) -> dict[str, Stage]:
    def prepare_images(minutes: float) -> bool:
        vae = autoencoder.trained(run / "autoencoder", recipe)
        return prepare(run / "dataset", vae, recipe.images | recipe.edits, recipe.in_file, machine, minutes)

    def write_weights(_minutes: float) -> bool:
        bundle.save(run, recipe, run / "weights")
        return True

    stages: dict[str, Stage] = {
        "shape_classifier": lambda minutes: shape_classifier.train(run / "shape_classifier", recipe, machine, minutes),
        "autoencoder": lambda minutes: autoencoder.train(run / "autoencoder", recipe, machine, minutes),
        "dataset": prepare_images,
        "decoder": lambda minutes: autoencoder.sharpen(run, recipe, machine, minutes),
        "text_encoders": lambda minutes: text_encoders.train(run / "text_encoders", recipe, machine, minutes),
        "denoiser": lambda minutes: denoiser.train(run, recipe, machine, minutes),
    }
    if recipe.has_editor:
        stages["editor"] = lambda minutes: editor.train(run, recipe, machine, minutes)
    return stages | {"weights": write_weights} | _checker_stages(run / "weights", run, None, recipe, machine)


def _checker_stages(home: Path, run: Path, start: Path | None, recipe: Recipe, machine: Machine) -> dict[str, Stage]:
    files, in_file = recipe.rendered_files, recipe.rendered_in_file

    def render_examples(minutes: float) -> bool:
        return prepare_rendered(run / "rendered", load_miniature(machine.device, home), files, in_file, minutes)

    def train_it(minutes: float) -> bool:
        return checker.train(run / "checker", run / "rendered", recipe, machine, minutes, start=start)

    return {"rendered": render_examples, "checker": train_it}


@app.command()
def evaluate(
    home: Annotated[Path, typer.Option(help="Folder of the weights: the bundled ones, or a training's.")] = HOME,
    run: Run = Path("out/miniature"),
    number: Annotated[int, typer.Option(help="Images for each figure.")] = 200,
) -> None:
    """Print how well the weights follow prompts, save a grid of images, and exit 1 if a figure is missed."""
    pipeline = load_miniature(home=home)
    is_good = True
    for figure in _figures(pipeline, home, run, number):
        typer.echo(str(figure))
        is_good &= figure.is_good
    evaluation.image_grid(pipeline).save(run / "grid.png")
    typer.echo(f"{run / 'grid.png'}")
    raise typer.Exit(0 if is_good else 1)


def _figures(pipeline: Pipeline, home: Path, run: Path, number: int) -> Iterator[Figure | Speed]:
    yield from evaluation.speeds(pipeline)
    finder, render = SafetyClassifier.load(checker_file(home)), evaluation.renderer_of(pipeline)
    yield from evaluation.find_forbidden(finder, number)
    yield from evaluation.find_rendered(finder, render)
    shape_classifier.train(run / "shape_classifier", RECIPE, Machine(), minutes=60)
    looks, scenes = shape_classifier.trained(run / "shape_classifier"), evaluation.asked_for(number)
    yield from evaluation.follow_prompts(render, looks, scenes)
    if not bundle.has_editor(home):
        typer.echo("edits             not tried: Kontext's transformer was not trained to read images")
        return
    # An edit takes five times as long as an image: the input is as large as the output.
    yield from evaluation.follow_edits(evaluation.editor_of(pipeline), looks, scenes[: number // 4])


if __name__ == "__main__":
    try:
        app()
    except FarmError as error:
        sys.exit(str(error))
