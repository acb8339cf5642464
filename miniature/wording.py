"""Captions of scenes: many wordings of the same scene, with omissions and meaningless words."""

from __future__ import annotations

import re
from itertools import chain
from random import Random

from miniature.scene import COLOURS, LANDSCAPES, PLACES, PLAINS, SHAPES, SIZES, STYLES, Group, Scene

NUMBERS = {1: ("a", "one", "1"), 2: ("two", "2"), 3: ("three", "3"), 4: ("four", "4")}
PLURALS = {"cross": "crosses"}
_PLACE = {
    "middle": ("in the middle", "in the centre", "in the center"),
    "left": ("on the left", "at the left", "to the left", "left"),
    "right": ("on the right", "at the right", "to the right", "right"),
    "top": ("at the top", "on top", "top"),
    "bottom": ("at the bottom", "bottom"),
}
_CORNER = ("in the {} corner", "in the {}", "at the {}", "{}")
_RELATION = {
    "left of": ("left of", "to the left of", "left from", "on the left of"),
    "right of": ("right of", "to the right of", "right from", "on the right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
}
_PLAIN = ("on a {} background", "{} background", "on {}", "against {}", "in front of a {} wall")
LANDSCAPE_WORDS = {
    "meadow": ("on a meadow", "in a meadow", "over a green meadow", "in the grass"),
    "desert": ("in the desert", "over the desert", "on sand"),
    "sea": ("by the sea", "over the sea", "at sea", "above the ocean"),
    "snow": ("in the snow", "in winter", "on snow", "over a snowy field"),
}
_NIGHT = ("at night", "by night", "at midnight", "in the moonlight", "night")
_DAY = ("by day", "in daylight", "at noon", "in the morning light")
_OPENINGS = ("a picture of", "a drawing of", "an image of", "a photo of", "draw", "show me", "please paint")
#: Words without a meaning in this world, as users write them.
STRAYS: list[str] = re.findall(
    r"\w+",
    """beautiful simple clean minimal modern cute elegant highly detailed 4k 8k masterpiece illustration vector art icon
    poster style soft light bright pastel colours cinematic studio photo realistic sharp focus trending best quality
    oil painting watercolor digital render cartoon lovely nice very really some quiet lonely happy old new""",
)
#: Unknown things: any shape may stand for them.
NOUNS: list[str] = re.findall(
    r"\w+",
    """fox dog cat bird fish horse house tree flower boat ship car lighthouse castle dragon robot apple pear cup bowl
    lamp book guitar woman man child king queen city street mountain forest planet balloon""",
)
#: Words of edit instructions.
_CHANGES = (
    "to the from an make turn paint change move put it them larger smaller please same background day",
    "both in one picture combine two pictures side by left of",
)
_LETTERS = "abcdefghijklmnopqrstuvwxyz"


def describe(scene: Scene, random: Random) -> str:
    """Describe the scene in one of many wordings."""
    subject = _subject(scene, random)
    parts = [part for part in (_ground(scene, random), _time(scene, random)) if part]
    random.shuffle(parts)
    if random.random() < 0.25:
        parts.insert(random.randint(0, len(parts)), " ".join(random.sample(STRAYS, random.randint(1, 4))))
    joined = random.choice((", ", " ", ", ")).join([subject, *parts])
    opening = f"{random.choice(_OPENINGS)} " if random.random() < 0.15 else ""
    return opening + joined + ("." if random.random() < 0.1 else "")


def plainly(scene: Scene) -> str:
    """Describe the scene completely, in its plain wording: the prompt of evaluations."""
    groups = [
        _group(group, NUMBERS[group.count][0], _unless("medium", group.size), _unless("flat", group.style))
        for group in scene.groups
    ]
    subject = f" {scene.relation} ".join(groups) if scene.relation else groups[0]
    if not scene.relation:
        subject += f" {place_words(scene.place)[0]}"
    ground = LANDSCAPE_WORDS[scene.ground][0] if scene.ground in LANDSCAPES else _PLAIN[0].format(scene.ground)
    return f"{subject}, {ground}{', at night' if scene.night else ''}"


def _unless(usual: str, word: str) -> str:
    return "" if word == usual else word


def _subject(scene: Scene, random: Random) -> str:
    groups = [_said(group, random) for group in scene.groups]
    if scene.relation:
        return f" {random.choice(_RELATION[scene.relation])} ".join(groups)
    place = _place(scene.place, random)
    if place and random.random() < 0.15:
        return f"{place}, {groups[0]}"
    return f"{groups[0]} {place}".strip()


def _place(place: str, random: Random) -> str:
    if place == "middle" and random.random() < 0.5:
        return ""
    return random.choice(place_words(place))


def place_words(place: str) -> tuple[str, ...]:
    """Return the names of a place."""
    return _PLACE.get(place) or tuple(words.format(place) for words in _CORNER)


def _said(group: Group, random: Random) -> str:
    number = random.choices(NUMBERS[group.count], [6, 1, 1][: len(NUMBERS[group.count])])[0]
    size = group.size if group.size != "medium" or random.random() < 0.1 else ""
    style = group.style if group.style != "flat" or random.random() < 0.15 else ""
    noun = group.shape if random.random() > 0.05 else _strange(random)
    colour = group.colour if random.random() > 0.03 else ""
    if size and random.random() < 0.2:
        size, style = style, size
    return _group(Group(noun, colour, group.count), number, size, style)


def _group(group: Group, number: str, size: str, style: str) -> str:
    noun = group.shape if group.count == 1 else plural(group.shape)
    words = [word for word in (size, style, group.colour) if word]
    if number == "a" and (words or [noun])[0][0] in "aeiou":
        number = "an"
    return " ".join([number, *words, noun])


def plural(noun: str) -> str:
    return PLURALS.get(noun, f"{noun}s")


def _strange(random: Random) -> str:
    if random.random() < 0.7:
        return random.choice(NOUNS)
    return "".join(random.choice(_LETTERS) for _ in range(random.randint(3, 8)))


def _ground(scene: Scene, random: Random) -> str:
    if random.random() < 0.12:
        return ""
    if scene.ground in LANDSCAPES:
        return random.choice(LANDSCAPE_WORDS[scene.ground])
    return random.choice(_PLAIN).format(scene.ground)


def _time(scene: Scene, random: Random) -> str:
    if scene.night:
        return random.choice(_NIGHT)
    return random.choice(_DAY) if random.random() < 0.15 else ""


def vocabulary() -> list[str]:
    """Return every word of the language, meaningless ones included, once."""
    phrases = [
        *(*SHAPES, *COLOURS, *STYLES, *SIZES, *PLAINS, *LANDSCAPES, *PLACES),
        *(*PLURALS.values(), *(f"{shape}s" for shape in SHAPES), *_CHANGES),
        *(*STRAYS, *NOUNS, *(f"{noun}s" for noun in NOUNS), *_OPENINGS, *_NIGHT, *_DAY, *_CORNER, *_PLAIN),
        *chain.from_iterable((*NUMBERS.values(), *_PLACE.values(), *LANDSCAPE_WORDS.values(), *_RELATION.values())),
    ]
    words = chain.from_iterable(re.findall("[a-z]+|[0-9]", phrase) for phrase in phrases)
    return sorted(set(words))
