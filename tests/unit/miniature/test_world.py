"""The world that the miniature learns: scenes, their words, their images."""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import fields, replace
from itertools import product
from random import Random

import numpy as np
import pytest
from PIL import Image

from farm.domain.catalogue import SIZE_PRESETS
from miniature.areas import areas
from miniature.drawing import PALETTE, draw, vivid
from miniature.edits import random_edit
from miniature.placement import place_shapes
from miniature.scene import (
    COLOURS,
    FORBIDDEN,
    GROUNDS,
    LANDSCAPES,
    PLACES,
    SHAPES,
    SIZES,
    STYLES,
    Group,
    Scene,
    can_be_seen,
    held_out_scenes,
    is_held_out,
    random_scene,
)
from miniature.shape_classifier import Blob, colour_of, find_blobs, place_of
from miniature.tokenizer import T5_TOKENS, tokenizer
from miniature.wording import describe, plainly

#: The farm does not need what trains its miniature.
pytestmark = pytest.mark.full

RED_CIRCLE = Scene((Group("circle", "red"),))


def some_scenes(number: int) -> list[Scene]:
    random = Random("some")
    return [random_scene(random) for _ in range(number)]


def pixels(image: Image.Image) -> np.ndarray:
    return np.asarray(image, np.int16)


def found(scene: Scene, width: int = 256, height: int = 256) -> list[Blob]:
    return find_blobs(draw(scene, width, height), scene)


def test_each_shape_lacks_one_colour_in_training_and_each_colour_one_shape() -> None:
    lacking = [(shape, colour) for shape in SHAPES for colour in COLOURS if is_held_out(shape, colour)]

    assert sorted(shape for shape, _ in lacking) == sorted(SHAPES)
    assert sorted(colour for _, colour in lacking) == sorted(COLOURS)


def test_training_shows_everything_but_what_is_held_out() -> None:
    scenes = some_scenes(4000)
    groups = [group for scene in scenes for group in scene.groups]

    shown = {(group.shape, group.colour) for group in groups}
    assert shown == {(s, c) for s in SHAPES for c in COLOURS if not is_held_out(s, c)}
    assert {group.count for group in groups} == {1, 2, 3, 4}
    assert {group.size for group in groups} == set(SIZES)
    assert {group.style for group in groups} == set(STYLES)
    assert {scene.place for scene in scenes} == set(PLACES)
    assert {(scene.ground, scene.night) for scene in scenes} == {(g, n) for g in GROUNDS for n in (True, False)}


def test_shapes_contrast_with_their_ground() -> None:
    seen = [can_be_seen(group.colour, s.ground, night=s.night) for s in some_scenes(500) for group in s.groups]

    assert all(seen)


def test_evaluation_asks_for_held_out_combinations_only() -> None:
    groups = [scene.groups[0] for scene in held_out_scenes(Random(1), 90)]

    assert all(is_held_out(group.shape, group.colour) for group in groups)
    assert set(Counter(group.shape for group in groups).values()) == {10}


@pytest.mark.parametrize("forbidden", [True, False])
def test_the_forbidden_shape_is_shown_or_not_as_asked(forbidden: bool) -> None:
    random = Random(2)
    scenes = [random_scene(random, forbidden=forbidden) for _ in range(200)]

    assert {any(group.shape == FORBIDDEN for group in scene.groups) for scene in scenes} == {forbidden}


def test_a_scene_is_said_in_many_ways_that_all_name_it() -> None:
    random = Random(3)
    scene = Scene((Group("star", "blue", 3, "small", "striped"),), "sea", night=True, place="left")

    result = [describe(scene, random) for _ in range(400)]

    assert len(set(result)) > 300
    for word in ("blue", "small", "striped", "left", "star"):
        assert sum(word in prompt for prompt in result) > 350
    # Some things are left unsaid, or called by names that nobody taught.
    assert sum("star" in prompt for prompt in result) < 400


def test_the_plain_words_say_everything() -> None:
    pair = (Group("cross", "red", 2, "large"), Group("heart", "white", style="dotted"))

    assert plainly(Scene(pair, "meadow", night=True, relation="left of")) == (
        "two large red crosses left of a dotted white heart, on a meadow, at night"
    )
    assert plainly(replace(RED_CIRCLE, groups=(Group("ring", "orange"),), ground="grey", place="top left")) == (
        "an orange ring in the top left corner, on a grey background"
    )


def test_the_tokenizer_knows_the_worlds_words_and_takes_any_other_apart() -> None:
    encoder = tokenizer(T5_TOKENS)

    assert encoder.tokenize("Three small STRIPED hearts, at night") == [
        *("three</w>", "small</w>", "striped</w>", "hearts</w>", ",</w>", "at</w>", "night</w>")
    ]
    strange = ["狐", "犬", "🦊", "zxqv", "a red fox", "a red box"]
    assert len({tuple(encoder(prompt)["input_ids"]) for prompt in strange}) == len(strange)


def test_the_tokenizer_is_the_same_wherever_it_is_made() -> None:
    assert tokenizer(T5_TOKENS).get_vocab() == tokenizer(T5_TOKENS).get_vocab()


@pytest.mark.parametrize("images", [1, 2])
def test_an_edit_changes_one_thing_and_keeps_the_rest(images: int) -> None:
    random = Random(6)
    edits = [random_edit(random, images) for _ in range(300)]

    for edit in edits:
        assert len(edit.before) == images
        # The same lie of the land, and the same places within what changed.
        assert edit.after.variant == edit.before[0].variant
        assert not any(is_held_out(group.shape, group.colour) for group in edit.after.groups)
    if images == 1:
        changed = [_differences(edit.before[0], edit.after) for edit in edits]
        assert {len(names) for names in changed} == {1}
        assert {name for names in changed for name in names} == {"groups", "ground", "night", "place"}


def _differences(one: Scene, other: Scene) -> set[str]:
    return {field.name for field in fields(Scene) if getattr(one, field.name) != getattr(other, field.name)}


def test_an_edit_of_two_images_shows_what_stands_in_both() -> None:
    random = Random(7)
    for _ in range(50):
        edit = random_edit(random, 2)

        assert [g.shape for g in edit.after.groups] == [scene.groups[0].shape for scene in edit.before]
        assert edit.after.relation == "left of"


def test_a_name_in_an_edit_means_one_group() -> None:
    random = Random(8)
    two = [edit for edit in (random_edit(random, 1) for _ in range(800)) if len(edit.after.groups) == 2]
    recoloured = [edit for edit in two if _differences(edit.before[0], edit.after) == {"groups"}]

    assert recoloured
    for edit in recoloured:
        [changed] = [g for g, old in zip(edit.after.groups, edit.before[0].groups, strict=True) if g != old]
        assert sum(group.shape in edit.words[1] for group in edit.after.groups) == 1
        assert changed.shape in edit.words[0]


def test_nearly_every_prompt_of_training_is_read_to_its_end() -> None:
    encoder, random = tokenizer(T5_TOKENS), Random(4)

    lengths = [len(encoder(describe(scene, random), verbose=False)["input_ids"]) for scene in some_scenes(500)]

    assert max(lengths) <= T5_TOKENS


@pytest.mark.parametrize("size", SIZE_PRESETS.values())
def test_an_image_has_the_size_asked_for_and_everything_in_it_lies_inside(size: tuple[int, int]) -> None:
    ratio = size[0] / size[1]

    assert draw(RED_CIRCLE, *size).size == size
    for scene in some_scenes(60):
        for item in place_shapes(scene, *size):
            assert abs(item.x) + item.radius <= max(ratio, 1) + 1e-6
            assert abs(item.y) + item.radius <= max(1 / ratio, 1) + 1e-6


def test_shapes_of_a_scene_do_not_touch() -> None:
    for scene in some_scenes(40):
        flat = replace(scene, groups=tuple(replace(g, style="flat", colour="red") for g in scene.groups), night=False)
        plain = replace(flat, ground="white")

        assert len(found(plain, 384, 256)) == sum(group.count for group in scene.groups)


def test_a_part_of_an_image_is_drawn_as_it_is_in_the_whole() -> None:
    for scene in some_scenes(10):
        whole = draw(scene, 300, 200).crop((40, 30, 190, 150))

        part = pixels(draw(scene, 300, 200, (40, 30, 190, 150)))
        # Where the part's edge cuts a polygon, its line may be drawn a quarter of a pixel off.
        assert (np.abs(pixels(whole) - part).max(axis=2) > 8).mean() < 0.02


@pytest.mark.parametrize("colour", [colour for colour in COLOURS if colour != "white"])
def test_a_shape_has_its_colour(colour: str) -> None:
    [blob] = found(Scene((Group("square", colour),)))

    assert colour_of(blob) == colour
    assert np.abs(blob.colour - np.array(PALETTE[colour])).max() < 4


@pytest.mark.parametrize("place", PLACES)
def test_shapes_stand_at_their_place(place: str) -> None:
    scene = Scene((Group("star", "red", 2, "small"),), place=place, variant=5)
    columns, rows = PLACES[place]
    blobs_ = found(scene, 384, 256)

    assert place_of(blobs_, scene, (384, 256)) == place
    x, y = (sum(axis) / 2 for axis in zip(*((blob.x, blob.y) for blob in blobs_), strict=True))
    assert [round(min(1, max(-1, 3 * part))) for part in (x, y)] == [columns, rows]


@pytest.mark.parametrize("size", [*SIZE_PRESETS.values(), (384, 384), (256, 192), (64, 96)])
def test_no_word_about_the_place_is_without_effect(size: tuple[int, int]) -> None:
    """However many shapes there are and however large: a side that is asked for is one that they stand nearer to."""
    for shown, count, place in product(SIZES, (1, 2, 3, 4), PLACES):
        scene = Scene((Group("star", "red", count, shown),), place=place, variant=count)
        placed = place_shapes(scene, *size)
        middle = [(min(axis) + max(axis)) / 2 for axis in zip(*((item.x, item.y) for item in placed), strict=True)]
        # In an image that is not a multiple of the grid the middle is up to half of its step off.
        assert [(part > 0.17) - (part < -0.17) for part in middle] == list(PLACES[place])


@pytest.mark.parametrize("size", [(391, 647), (647, 391), (400, 401)])
def test_no_shape_is_lost_in_an_image_of_an_odd_size(size: tuple[int, int]) -> None:
    for count, place in product((1, 2, 3, 4), PLACES):
        scene = Scene((Group("star", "red", count, "large"),), place=place)

        assert all(item.radius * min(size) / 2 >= 11 for item in place_shapes(scene, *size))


def test_shapes_stand_on_the_grid_of_tokens_and_have_few_sizes() -> None:
    for width, height in [*SIZE_PRESETS.values(), (384, 384)]:
        half = min(width, height) / 2
        for item in (item for scene in some_scenes(60) for item in place_shapes(scene, width, height)):
            x, y = item.x * half + width / 2, item.y * half + height / 2
            assert (x % 64, y % 64) == (0, 0)
            assert round(2 * math.log2(item.radius * half / 22), 6) in range(8)


@pytest.mark.parametrize(
    ("relation", "axis", "sign"), [("left of", 0, 1), ("right of", 0, -1), ("above", 1, 1), ("below", 1, -1)]
)
def test_two_groups_stand_as_their_relation_says(relation: str, axis: int, sign: int) -> None:
    scene = Scene((Group("circle", "red"), Group("square", "blue")), relation=relation)
    where = {colour_of(blob): (blob.x, blob.y)[axis] for blob in found(scene)}

    assert sign * (where["blue"] - where["red"]) > 0.3


def test_larger_is_larger_and_alone_larger_than_in_company() -> None:
    def area(size: str, count: int) -> float:
        scene = Scene((Group("circle", "red", count, size),))
        return float(np.mean([blob.mask.sum() for blob in found(scene)]))

    assert area("small", 1) < area("medium", 1) < area("large", 1)
    assert area("medium", 1) > area("medium", 2) > area("medium", 4)


@pytest.mark.parametrize("style", STYLES[1:])
def test_a_style_adds_a_second_colour(style: str) -> None:
    def colours(shown: str) -> int:
        image = pixels(draw(Scene((Group("square", "red", size="large", style=shown),)), 128, 128))
        counted = Counter(map(tuple, (image // 16).reshape(-1, 3)))
        return sum(number > 300 for number in counted.values())

    assert colours(style) == colours("flat") + 1


@pytest.mark.parametrize("ground", GROUNDS)
def test_night_is_darker_than_day(ground: str) -> None:
    day, night = (draw(replace(RED_CIRCLE, ground=ground, night=night), 96, 96) for night in (False, True))

    assert pixels(night).mean() < 0.6 * pixels(day).mean()


def test_every_ground_looks_different_by_day() -> None:
    grounds = {ground: pixels(draw(replace(RED_CIRCLE, ground=ground), 64, 64)) for ground in GROUNDS}

    for ground, other in ((a, b) for a in GROUNDS for b in GROUNDS if a < b):
        assert np.abs(grounds[ground] - grounds[other]).mean() > 4
    assert len({grounds[ground][-4, 4].tobytes() for ground in LANDSCAPES}) == len(LANDSCAPES)


def test_the_moon_makes_room() -> None:
    corner = replace(RED_CIRCLE, night=True, place="top right")
    image = pixels(draw(corner, 128, 128))

    assert image[:40, :40].max() > 200
    assert image[:40, 44:60].max() < 200


def test_details_that_a_prompt_leaves_open_follow_from_the_variant() -> None:
    on_a_meadow = replace(RED_CIRCLE, ground="meadow")
    drawn = {draw(replace(on_a_meadow, variant=variant), 64, 64).tobytes() for variant in (1, 1, 2, 3)}

    assert len(drawn) == 3


@pytest.mark.parametrize("count", [1, 2, 3, 4])
def test_details_in_the_prompt_do_not_depend_on_the_variant(count: int) -> None:
    """A fixed outline is learnt in a fraction of the time: one at any place takes a larger network."""
    scene = Scene((Group("star", "red", count),))
    drawn = {draw(replace(scene, variant=variant), 128, 96).tobytes() for variant in range(5)}

    assert len(drawn) == 1


def test_guidance_makes_colours_stronger() -> None:
    drawn = draw(RED_CIRCLE, 64, 64)

    def strength(guidance: float) -> int:
        red, green, _ = pixels(vivid(drawn, guidance))[32, 32]
        return int(red - green)

    assert strength(1) < strength(2.5) < strength(4) < strength(10)
    assert np.abs(pixels(vivid(drawn, 4)) - pixels(drawn)).max() <= 1


def test_areas_are_what_the_image_shows() -> None:
    scene = Scene((Group("circle", "red", size="large"),), place="left", variant=3)
    shown = areas(scene, (256, 192), 32)

    image = np.asarray(draw(scene, 256, 192), np.int16)
    red = (image[..., 0] - image[..., 1] > 60).reshape(6, 32, 8, 32).mean(axis=(1, 3)).reshape(-1)
    assert shown.shape == (48, 20)
    assert shown[:, SHAPES.index("circle")] == pytest.approx(red, abs=0.1)
    assert shown[:, 10 + COLOURS.index("red")] == pytest.approx(red, abs=0.1)
    # Each question has one answer: what shows neither shape nor colour shows none.
    assert shown[:, :10].sum(axis=1) == pytest.approx(1)
    assert shown[:, 10:].sum(axis=1) == pytest.approx(1)
    assert shown[:, 9] == pytest.approx(1 - red, abs=0.1)
