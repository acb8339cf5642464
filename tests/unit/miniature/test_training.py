"""The miniature's training in small: every stage runs, resumes, and ends in a folder that can be loaded."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from random import Random
from shutil import copytree
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open

from farm.domain.errors import ConfigurationError
from miniature import (
    autoencoder,
    bundle,
    checker,
    checker_examples,
    denoiser,
    editor,
    evaluation,
    shape_classifier,
    text_encoders,
)
from miniature.areas import areas
from miniature.batches import Machine
from miniature.checker_examples import prepare_rendered
from miniature.dataset import Dataset, prepare
from miniature.drawing import draw
from miniature.evaluation import Figure
from miniature.recipe import RECIPE, TRIAL, Form
from miniature.rendering import render_prompt
from miniature.scene import COLOURS, FORBIDDEN, SHAPES, Group, Scene, random_scene
from miniature.training import Plan, Training, averaged_weights, restored
from tests.unit.pipelines.denoising import record
from workers.checkers.safety_classifier import SHORT_SIDE, SafetyClassifier
from workers.pipelines import miniature
from workers.pipelines.kontext import tiled_positions
from workers.pipelines.latents import Size
from workers.pipelines.loading import load_miniature

#: The farm does not need what trains its miniature.
pytestmark = pytest.mark.full

HERE = Machine()
LONG = 10.0
WEIGHTS = "diffusion_pytorch_model.safetensors"
FILES = TRIAL.images | TRIAL.edits


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Yield a folder in which all of the trial's stages are done."""
    folder = tmp_path_factory.mktemp("run")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    assert autoencoder.train(folder / "autoencoder", TRIAL, HERE, LONG)
    vae = autoencoder.trained(folder / "autoencoder", TRIAL)
    assert prepare(folder / "dataset", vae, FILES, TRIAL.in_file, HERE, LONG)
    assert text_encoders.train(folder / "text_encoders", TRIAL, HERE, LONG)
    assert denoiser.train(folder, TRIAL, HERE, LONG)
    assert editor.train(folder, TRIAL, HERE, LONG)
    assert autoencoder.sharpen(folder, TRIAL, HERE, LONG)
    bundle.save(folder, TRIAL, folder / "weights")
    pipeline = load_miniature(home=folder / "weights")
    assert prepare_rendered(folder / "rendered", pipeline, TRIAL.rendered_files, TRIAL.rendered_in_file, LONG)
    assert checker.train(folder / "checker", folder / "rendered", TRIAL, HERE, LONG)
    assert shape_classifier.train(folder / "shape_classifier", TRIAL, HERE, LONG)
    yield folder
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def home(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder that the farm loads."""
    folder = tmp_path_factory.mktemp("home")
    bundle.save(run, TRIAL, folder)
    checker.save(run / "checker", miniature.checker(folder), bundle.ORIGIN)
    return folder


class Line(torch.nn.Module):
    """A straight line to be fitted to points."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def losses(self, _step: int) -> dict[str, torch.Tensor]:
        x = torch.randn(16, 1)
        return {"off": (self.layer(x) - 2 * x).square().mean()}


def trained_line(folder: Path, plan: Plan, *, minutes: float = LONG) -> Training:
    torch.manual_seed(0)
    line = Line()
    training = Training(folder, line, plan)
    training.run(line.losses, minutes)
    return training


def test_a_training_lowers_its_loss_and_leaves_its_curves(tmp_path: Path) -> None:
    training = trained_line(tmp_path, Plan(steps=100, rate=0.05, warm_up=5, average=0.9))

    assert training.is_finished
    assert float(training.averaged["layer.weight"]) == pytest.approx(2, abs=0.1)
    result = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["step"] for line in result] == [20, 40, 60, 80, 100]
    assert result[-1]["off"] < result[0]["off"]
    with Image.open(tmp_path / "curves.png") as curves:
        assert curves.size == (640, 160)


def test_a_training_that_was_stopped_ends_as_one_that_was_not(tmp_path: Path) -> None:
    plan = Plan(steps=30, rate=0.05, warm_up=5)
    whole = trained_line(tmp_path / "whole", plan)

    # As if it had been stopped after 10 steps: the plan, and so the rate of each step, is that of the whole.
    torch.manual_seed(0)
    line = Line()
    begun = Training(tmp_path / "stopped", line, plan)
    for _ in range(10):
        begun.make_step(line.losses)
    begun.save()
    other = trained_line(tmp_path / "stopped", plan)

    assert other.step == 30
    assert all(torch.equal(whole.averaged[name], other.averaged[name]) for name in whole.averaged)


def test_a_training_stops_when_its_time_is_over(tmp_path: Path) -> None:
    stopped = trained_line(tmp_path, Plan(steps=30, rate=0.05), minutes=0)

    assert not stopped.is_finished
    assert averaged_weights(tmp_path).keys() == stopped.averaged.keys()


def test_a_part_that_is_not_trained_yet_is_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match=r"autoencoder/checkpoint\.pt is not there yet; make train-miniature"):
        autoencoder.trained(tmp_path / "autoencoder", TRIAL)


def test_the_rate_rises_and_falls() -> None:
    plan = Plan(steps=100, rate=1.0, warm_up=10, cool_down=0.2)

    rates = [plan.rate_at(step) for step in (0, 9, 50, 80, 90, 99)]

    assert rates == pytest.approx([0.1, 1, 1, 1, 0.5, 0.05])


def test_the_vae_begins_by_letting_colours_through() -> None:
    torch.manual_seed(0)
    vae = autoencoder.autoencoder(RECIPE.levels).eval()
    colours = torch.tensor([[0.8, -0.6, 0.1], [-0.5, 0.7, -0.2]])
    plain = colours[:, :, None, None].expand(-1, -1, 192, 192)

    with torch.no_grad():
        rendered = vae.decode(vae.encode(plain).latent_dist.mean, return_dict=False)[0]

    middles = rendered[:, :, 96, 96]
    assert [int(middle.argmax()) for middle in middles] == [0, 1]
    assert [int(middle.argmin()) for middle in middles] == [1, 0]


def test_a_sharpened_decoder_renders_otherwise_from_the_same_latents(run: Path) -> None:
    ours, others = (averaged_weights(run / name) for name in ("autoencoder", "decoder"))

    assert {name.partition(".")[0] for name in ours if not torch.equal(ours[name], others[name])} == {"decoder"}
    scales = [autoencoder.trained(run / name, TRIAL).config.scaling_factor for name in ("autoencoder", "decoder")]
    assert scales[0] == scales[1]


def test_channels_are_evened_out_and_images_stay_the_same(run: Path) -> None:
    plain = restored(autoencoder.autoencoder(TRIAL.levels), run / "autoencoder")
    even = autoencoder.trained(run / "autoencoder", TRIAL)
    images = torch.cat([autoencoder.random_crops(Random(step), TRIAL) for step in range(16)])

    latents, evened = (vae.encode(images).latent_dist.mean for vae in (plain, even))

    assert float(latents.std(dim=(0, 2, 3)).max() / latents.std(dim=(0, 2, 3)).min()) > 3
    assert evened.std(dim=(0, 2, 3)).tolist() == pytest.approx([1] * 16, rel=0.3)
    torch.testing.assert_close(plain.decode(latents).sample, even.decode(evened).sample)


def test_latents_are_scaled_to_a_deviation_of_one(run: Path) -> None:
    batch = Dataset(run / "dataset").batch(Random(1), 8, Form(TRIAL.small[0]))

    assert batch.latents.shape == (8, 16, 8, 8)
    assert 0.3 < float(batch.latents.std()) < 3
    assert len(batch.prompts) == len(batch.guidance) == 8
    assert batch.references == []


def test_prepared_images_are_kept(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "dataset").iterdir()}

    assert len(before) == len(FILES) == 5
    assert prepare(run / "dataset", autoencoder.autoencoder(TRIAL.levels), FILES, TRIAL.in_file, HERE, LONG)
    assert {path: path.stat().st_mtime_ns for path in (run / "dataset").iterdir()} == before


def test_trained_weights_are_loaded_as_flux_and_render(home: Path) -> None:
    loaded = load_miniature(home=home)
    one, other = (render_prompt(loaded, "a red circle", seed, (64, 48), steps=2) for seed in (1, 2))

    assert one.size == (64, 48)
    assert one != other


def test_trained_weights_say_that_they_are_not_flux(home: Path) -> None:
    descriptions, weights = list(home.rglob("config.json")), list(home.rglob("*.safetensors"))

    assert (len(descriptions), len(weights)) == (5, 6)
    for description in descriptions:
        assert "It has no weight in common with FLUX.1" in description.read_text()
    for file in weights:
        with safe_open(file, framework="pt") as opened:
            assert opened.metadata()["name"] == "srpo-farm miniature"


def test_the_denoiser_begins_with_readers_that_were_taught(run: Path, tmp_path: Path) -> None:
    copytree(run / "text_encoders", tmp_path / "text_encoders")

    denoiser.train(tmp_path, TRIAL, HERE, minutes=0)

    taught = text_encoders.trained(run / "text_encoders", TRIAL).state_dict()
    begun = averaged_weights(tmp_path / "denoiser")
    assert all(torch.equal(begun[f"denoiser.text_encoders.{name}"], value) for name, value in taught.items())


def test_readers_are_asked_what_a_scene_shows() -> None:
    alone = Scene((Group("heart", "pink", count=3, size="large", style="striped"),), "sea", night=True, place="top")
    pair = Scene((Group("star", "red"), Group("ring", "black")), relation="below")

    assert text_encoders.answers(alone) == [4, 6, 2, 2, 2, *[-100] * 5, 8, 1, 3, 4]
    assert text_encoders.answers(pair) == [3, 0, 0, 1, 0, 7, 8, 0, 1, 0, 0, 0, 0, 3]


def test_readers_learn_to_answer() -> None:
    torch.manual_seed(0)
    pupil = text_encoders.TextEncoderTraining(TRIAL)
    prompts, right = ["a red star", "two blue hearts"], torch.tensor([[3, 0, 0, *[-100] * 11], [4, 4, 1, *[-100] * 11]])
    optimizer = torch.optim.AdamW(pupil.parameters(), lr=0.01)

    result = []
    for _ in range(30):
        losses = pupil.losses(prompts, right)
        result.append({name: loss.item() for name, loss in losses.items()})
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    assert all(result[-1][name] < 0.1 * result[0][name] for name in ("clip", "t5"))


def test_each_image_comes_with_what_its_parts_show(run: Path) -> None:
    contents = torch.load(run / "dataset" / "40x32-0000.pt", weights_only=True)
    scene = random_scene(Random("40x32-0000.pt 5"))

    assert contents["areas"].shape == (8, 5 * 4, 20)
    assert torch.equal(contents["areas"][5], torch.from_numpy(areas(scene, (40, 32), 8)).half())


def test_the_student_is_asked_within_the_transformer(run: Path) -> None:
    student = denoiser.DenoiserTraining(TRIAL)
    batch = Dataset(run / "dataset").batch(Random(1), 2, Form(TRIAL.small[0]))

    losses = student.losses(batch, done=0.5)
    (losses["shapes"] + losses["colours"]).backward()  # type: ignore[no-untyped-call]

    asked = {name for name, parameter in student.named_parameters() if parameter.grad is not None}
    assert {"answer.weight", "denoiser.transformer.x_embedder.weight"} <= asked
    assert "denoiser.transformer.proj_out.weight" not in asked
    at_the_end = student.losses(batch, done=1)
    assert (at_the_end["shapes"].item(), at_the_end["colours"].item()) == (0, 0)


def test_without_edits_kontext_has_no_transformer_of_its_own(run: Path, home: Path, tmp_path: Path) -> None:
    recipe = TRIAL.without_edits()
    bundle.save(run, recipe, tmp_path)

    assert not miniature.kontext(tmp_path).exists()
    assert (bundle.has_editor(tmp_path), bundle.has_editor(home)) == (False, True)
    assert recipe.images == TRIAL.images
    assert set(recipe.edits.values()) == {0}


def test_more_than_half_of_the_noise_levels_are_high_and_none_is_left_out() -> None:
    levels = denoiser.noise_levels(4000, torch.device("cpu"))

    assert 0 < levels.min() < 0.2
    assert 0.99 < levels.max() <= 1
    assert 0.55 < (levels > 0.85).float().mean() < 0.67


def test_edits_are_prepared_with_the_images_that_they_change(run: Path) -> None:
    batch = Dataset(run / "dataset").batch(Random(1), 4, TRIAL.full_edits[0])

    assert batch.latents.shape == (4, 16, 8, 10)
    assert [reference.shape for reference in batch.references] == [(4, 16, 8, 8), (4, 16, 10, 8)]


def test_the_editor_reads_images_where_the_farm_lays_them(run: Path) -> None:
    seen: list[Any] = []
    batch = Dataset(run / "dataset").batch(Random(1), 2, TRIAL.full_edits[0])
    network = denoiser.trained(run / "editor", TRIAL)
    record(network.transformer, seen)

    denoiser.flow_loss(network, batch)

    [asked] = seen
    # 5x4 tokens of its own, then the two images: the second right of the first or below it, never over it.
    given = tiled_positions([Size(32, 32, TRIAL.grid), Size(40, 32, TRIAL.grid)])
    assert torch.equal(asked["img_ids"][20:], given.float())
    assert asked["img_ids"][:20, 0].unique().tolist() == [0]
    assert torch.equal(asked["hidden_states"][:, 20:36], denoiser.packed(batch.references[0]))
    assert torch.equal(asked["hidden_states"][:, 36:], denoiser.packed(batch.references[1]))


def test_the_editor_reads_as_the_denoiser_does_and_renders_otherwise(run: Path) -> None:
    ours, others = (averaged_weights(run / name) for name in ("denoiser", "editor"))

    parts = {name: tuple(name.split(".")[:2]) for name in ours}
    differing = {parts[name] for name in ours if not torch.equal(ours[name], others[name])}
    assert ("denoiser", "transformer") in differing
    assert ("denoiser", "text_encoders") not in differing


def test_the_editor_is_kontext(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("workers.pipelines.kontext.PREFERRED_KONTEXT_RESOLUTIONS", [(32, 32)])
    change = evaluation.editor_of(load_miniature(home=home), size=(32, 32), steps=1)

    red, green = (change(Image.new("RGB", (32, 32), colour), "make it blue", 1) for colour in ("red", "green"))

    assert red != green


def test_a_perfect_denoiser_is_found_to_be_one(run: Path) -> None:
    def shapes(scene: Scene, _seed: int) -> Image.Image:
        return draw(scene, 256, 192)

    figures = evaluation.follow_prompts(
        shapes, shape_classifier.trained(run / "shape_classifier"), evaluation.asked_for(20)
    )

    shares = {figure.name: figure.share for figure in figures}
    # The judge of the trial has seen a dozen shapes: what it says of them is not asked.
    assert (shares["colour"], shares["count"]) == (1, 1)
    assert shares["place"] >= 0.9


def test_an_image_that_is_given_back_unchanged_is_found_to_be_so(run: Path) -> None:
    def nothing_done(image: Image.Image, _words: str, _seed: int) -> Image.Image:
        return image

    figures = evaluation.follow_edits(
        nothing_done, shape_classifier.trained(run / "shape_classifier"), evaluation.asked_for(6)
    )

    shares = {figure.name: figure.share for figure in figures}
    assert (shares["edit: new colour"], shares["edit: same count"]) == (0, 1)


def test_a_denoiser_of_plain_ground_is_found_to_render_nothing(run: Path) -> None:
    def nothing(_scene: Scene, _seed: int) -> Image.Image:
        return Image.new("RGB", (128, 128), "grey")

    figures = evaluation.follow_prompts(
        nothing, shape_classifier.trained(run / "shape_classifier"), evaluation.asked_for(5)
    )

    assert [figure.share for figure in figures] == [0, 0, 0, 0]
    assert not any(figure.is_good for figure in figures)


@pytest.mark.parametrize(
    ("figure", "good"),
    [
        (Figure("found", 95, 100, 0.95), True),
        (Figure("found", 94, 100, 0.95), False),
        (Figure("false alarms", 1, 100, 0.0, 0.01), True),
        (Figure("false alarms", 2, 100, 0.0, 0.01), False),
    ],
)
def test_a_figure_is_held_against_what_is_wanted(figure: Figure, good: bool) -> None:
    assert figure.is_good == good
    assert ("MISSED" in str(figure)) != good


def test_the_checker_looks_at_images_of_any_size(run: Path) -> None:
    finder = checker.trained(run / "checker")

    for size in ((1024, 576), (96, 400), (32, 32)):
        assert 0 <= finder.unsafe_probability(Image.new("RGB", size)) <= 1


def test_examples_of_the_checker_are_half_forbidden() -> None:
    images, shown = checker_examples.drawn(Random(3), 100)

    assert min(images.shape[2:]) == SHORT_SIDE
    assert shown.shape == (100, len(SHAPES), *(-(-side // 8) for side in images.shape[2:]))
    assert 30 < int(shown[:, SHAPES.index(FORBIDDEN)].amax(dim=(1, 2)).sum()) < 70


def test_examples_are_rendered_once_and_show_where_shapes_are(run: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in (run / "rendered").iterdir()}
    images, shown = checker_examples.rendered(Random(1), 4, run / "rendered")

    assert len(before) == TRIAL.rendered_files
    assert images.shape[:2] == (TRIAL.rendered_in_file, 3)
    assert shown.shape[2:] == tuple(-(-side // 8) for side in images.shape[2:])
    assert shown.amax(dim=(1, 2, 3)).tolist() == [1] * TRIAL.rendered_in_file
    pipeline = load_miniature(home=run / "weights")
    assert prepare_rendered(run / "rendered", pipeline, TRIAL.rendered_files, TRIAL.rendered_in_file, 0)
    assert not prepare_rendered(run / "rendered", pipeline, TRIAL.rendered_files + 1, TRIAL.rendered_in_file, 0)
    assert {path: path.stat().st_mtime_ns for path in (run / "rendered").iterdir()} == before


def test_a_checker_is_trained_further_from_where_it_stands(run: Path, tmp_path: Path) -> None:
    bundled = SafetyClassifier.load(miniature.checker()).network.state_dict()

    def trained(minutes: float) -> dict[str, torch.Tensor]:
        checker.train(tmp_path, run / "rendered", TRIAL, HERE, minutes, start=miniature.checker())
        return averaged_weights(tmp_path)

    assert all(torch.equal(value, bundled[name]) for name, value in trained(0).items())
    assert not all(torch.equal(value, bundled[name]) for name, value in trained(LONG).items())


def test_the_checker_learns_the_forbidden_shape_in_every_colour() -> None:
    scenes = [checker_examples.random_rendered_scene(Random(seed)) for seed in range(300)]
    bolts = [group for scene in scenes for group in scene.groups if group.shape == FORBIDDEN]

    assert {group.colour for group in bolts} == set(COLOURS)
    assert 120 < len([scene for scene in scenes if FORBIDDEN in {g.shape for g in scene.groups}]) < 180


def test_the_checkers_labels_show_where_shapes_are() -> None:
    scene = Scene((Group("circle", "red", count=2, size="small"),), place="top left", variant=3)
    where = checker_examples.shown(scene, 512, 384)

    rows, columns = where[SHAPES.index("circle")].nonzero(as_tuple=True)
    assert len(rows) == where.sum() == 2
    image = np.asarray(draw(scene, 512, 384).resize((128, SHORT_SIDE)), np.int16)
    for row, column in zip(rows.tolist(), columns.tolist(), strict=True):
        red, green, _ = image[8 * row + 4, 8 * column + 4]
        assert red > green + 100
