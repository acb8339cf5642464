"""The words of this project: retired ones are in no name, docstring, comment, message, script or page."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
FOLDERS = ("api", "deploy", "docs", "farm", "miniature", "monitoring", "tests", "workers")
SUFFIXES = (
    *(".py", ".lua", ".js", ".jsx", ".html", ".css", ".md", ".yml", ".yaml", ".toml", ".service", ".conf"),
    *("Makefile", "Dockerfile", ".example"),
)

#: Retired everywhere, as words of a name or of a text: regular expression → what to write instead.
RETIRED = {
    r"pictures?": "image",
    r"paint(s|ed|er|ers|ing|ings)?": "render",
    r"sheets?": "output, grid",
    r"doorm[ae]n": "authenticator",
    r"crews?": "pool",
    r"reapers?": "periodic thread",
    r"(lifelines?|mourn)": "child",
    r"desks?": "service",
    r"(fitness|condemn)": "health, mark faulty",
    r"hearing": "watchdog",
    r"pulses?": "watchdog",
    r"bells?": "wake-up",
    r"fates?": "outcome",
    r"strikes?": "fault",
    r"evidence": "observations",
    r"workshops?": "worker",
    r"whoever": "the caller, the client, the reader: say who",
    r"nobody'?s": "ownerless, of no caller",
}
#: Retired in names, where they had more than one meaning.
RETIRED_NAMES = {
    r"(house|world)": "context",
    r"(census|rota)": "stats, sweep state",
    r"letters?": "body, delivery",
    r"rooms?": "budget, capacity",
    r"hints?": "notification, affinity",
    r"spoken": "dialect",
    r"spare": "default",
    r"prints": "images",
    r"(solo|suspects|letting)": "render alone, preparing again, abandon",
    r"(gallery|fleet)": "download, workers",
    r"(most|least)": "max, min",
}
#: Retired as whole names.
RETIRED_WHOLE_NAMES = {r"_?(told|said|thing)": "result", r"_?PATIENCE": "READ_TIMEOUT_SECONDS: say of what"}
#: Turns of phrase: regular expression → what to write instead.
PHRASES = {
    r"what is to be\b": "say what happens",
    r"(?<!there )\bis none\b": "say what it is not",
    r"\bno more(?=[.,;:)\"'`]|$| (is|are|has|have)\b)": "no longer",
    r"\b(others'|another's|other's)(?=[.,;:!?)\"'`]|$)": "name what is owned",
}
#: Turns of phrase in names of tests: regular expression → what to write instead.
RETIRED_TEST_NAMES = {
    r"test_(who|it|so|what)_": "name what is tested: a client, a job, a limit",
    r"((hang|hold)s?|hung)_up|nobody|anothers|in_vain": "disconnected, delayed, of another caller, timed out",
    r"_is_none(_|$)": "invalid, unknown, unusable",
    r"_told(_|$)": "reported, returned, refused with",
}
#: Names and texts that stay: regular expression → the reason.
KEPT = {
    r"\bx?[-_]?(fal[-_])?runner[-_]hint": "fal's header",
    r"style ?sheet": "CSS",
    r"contact[-_ ]?sheet|--sheet": "small copies of many images on a page: photography's word",
    r"get_type_hints|shard_hint|param_hint": "names of the standard library, of redis-py and of typer",
    r"ascii_letters|most_common": "names of the standard library",
    r"(?<![a-z])at_(least|most)(?![a-z])": "bounds",
}
#: Files that speak of the words themselves, or in other people's words.
EXEMPT = {
    "tests/unit/test_words.py": "lists them",
    "miniature/wording.py": "the vocabulary of the miniature's prompts",
    "miniature/edits.py": "the vocabulary of the miniature's prompts",
    "tests/figures/__main__.py": "counts docstrings that begin with them",
    "CHANGELOG.md": "says what was renamed",
}

_KEPT = re.compile("|".join(KEPT), re.IGNORECASE)
_PARTS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")
#: A word by itself, or as a part of a name in snake or camel case.
_WORDS = re.compile(rf"(?:(?<![A-Za-z])|(?<=[a-z])(?=[A-Z]))(?i:({'|'.join(RETIRED)}))(?![a-z])")
_PHRASES = re.compile("|".join(PHRASES), re.MULTILINE)
_NAMES = re.compile("|".join(RETIRED_NAMES))
_WHOLE_NAMES = re.compile("|".join(RETIRED_WHOLE_NAMES))
_TEST_NAMES = re.compile("|".join(RETIRED_TEST_NAMES))


def files(folder: str) -> list[Path]:
    """List the files with code or prose in a folder; `.` means those directly in the root."""
    found = ROOT.glob("*") if folder == "." else (ROOT / folder).rglob("*")
    return [path for path in sorted(found) if path.is_file() and path.name.endswith(SUFFIXES) and _counts(path)]


def _counts(path: Path) -> bool:
    name = path.relative_to(ROOT).as_posix()
    return name not in EXEMPT and "node_modules" not in path.parts


def retired(text: str, names: Iterable[str]) -> Iterator[str]:
    """Yield the retired words and phrases of a text, and those of the names in it."""
    for found in (*_WORDS.finditer(text), *_PHRASES.finditer(text)):
        line = text[text.rfind("\n", 0, found.start()) + 1 :].partition("\n")[0]
        if not _KEPT.search(line):
            yield f"{text.count(chr(10), 0, found.start()) + 1}: {found[0]}"
    for name in names:
        if not _KEPT.search(name) and _is_retired(name):
            yield f"name {name}"


def _is_retired(name: str) -> bool:
    if name.startswith("test_"):
        return bool(_TEST_NAMES.search(name))
    return bool(_WHOLE_NAMES.fullmatch(name)) or any(_NAMES.fullmatch(part.lower()) for part in _PARTS.findall(name))


def names_in(path: Path, text: str) -> set[str]:
    """Return the identifiers of a Python module."""
    if path.suffix != ".py":
        return set()
    return {name for node in ast.walk(ast.parse(text)) for name in _names(node)}


def _names(node: ast.AST) -> Iterator[str]:
    match node:
        case ast.Name(id=name) | ast.Attribute(attr=name) | ast.FunctionDef(name=name) | ast.ClassDef(name=name):
            yield name
        case ast.arg(arg=name) | ast.keyword(arg=str(name)):
            yield name
        case ast.alias(name=name, asname=other):
            yield other or name


@pytest.mark.parametrize("folder", [*FOLDERS, "."])
def test_retired_words_are_gone(folder: str) -> None:
    found = []
    for path in files(folder):
        text = path.read_text()
        found += [f"{path.relative_to(ROOT)}:{word}" for word in retired(text, names_in(path, text))]

    assert not found, "\n".join(found)


@pytest.mark.parametrize(
    ("text", "names", "number"),
    [
        ("a Picture is here", [], 1),
        ("class UnusablePictures:", ["UnusablePictures"], 1),
        ("my_picture", ["my_picture"], 1),
        ("a repaint of the style sheet", [], 0),
        ("this is none.", [], 1),
        ("no more than three, and no more", [], 1),
        ('"it has the file no more"', [], 1),
        ("a hint and a room", [], 0),
        ("", ["make_room", "runner_hint", "Hint", "MOST_PARTS", "almost"], 3),
        ("", ["test_who_waits", "test_a_job_is_told", "test_a_name_that_is_none", "test_a_story_is_retold"], 3),
    ],
)
def test_a_retired_word_is_found(text: str, names: list[str], number: int) -> None:
    assert len(list(retired(text, names))) == number
