"""`farm` itself: help, version, shell completion, and errors as one line with an exit status."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from collections.abc import Iterator
from functools import cache
from itertools import takewhile
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from typer.main import get_command

from farm import __version__
from farm.cli.main import app, main
from farm.settings import has_colours
from tests.docs_snippets import DOCS, command_examples, executed_by, farm_commands

COMMANDS = [
    *("up", "api", "worker", "demo", "render", "models", "top", "usage", "pause", "resume", "doctor"),
    *("backup", "restore", "simulate"),
    *("jobs", "workers", "webhooks", "keys", "storage", "weights"),
]


class Ended(NamedTuple):
    """A command's exit status and output."""

    status: object
    out: str
    err: str


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Runner:
    return Runner(monkeypatch, capsys)


class Runner:
    """Runs `farm` with the given words in this process."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def __call__(self, *words: str) -> Ended:
        self._monkeypatch.setattr(sys, "argv", ["farm", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        return Ended(ended.value.code or 0, *self._capsys.readouterr())


def test_without_a_command_the_help_lists_all_of_them(run: Runner) -> None:
    ended = run()

    assert ended.status == 0
    listed = ended.out.partition("Commands:\n")[2].partition("\n\n")[0].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS
    assert not [line for line in listed if line.endswith("...")]


@pytest.mark.parametrize("command", COMMANDS)
def test_short_help_works_everywhere_and_no_summary_is_cut(
    run: Runner, monkeypatch: pytest.MonkeyPatch, command: str
) -> None:
    monkeypatch.setenv("COLUMNS", "80")

    ended = run(command, "-h")

    assert (ended.status, ended.err) == (0, "")
    assert ended.out.startswith(f"Usage: farm {command} ")
    assert run(command, "--help").out == ended.out
    assert "..." not in ended.out.replace("[ARGS]...", "")


@cache
def commands() -> dict[str, Any]:
    """Return every command by its words."""

    def below(command: Any, words: str) -> Iterator[tuple[str, Any]]:
        yield words, command
        for name, child in getattr(command, "commands", {}).items():
            yield from below(child, f"{words} {name}".strip())

    return dict(below(get_command(app), ""))


@pytest.mark.parametrize("words", commands())
def test_the_help_of_every_command_ends_with_examples_of_it(run: Runner, words: str) -> None:
    shown = run(*words.split(), "--help").out.partition("Examples:\n")[2].splitlines()

    assert shown
    for line in map(str.strip, shown):
        assert f"farm {words}".strip() in line
        assert line in (DOCS / "cli.md").read_text()


#: Pages whose shell code calls `farm`.
PAGES = ["../README.md", *(page.name for page in sorted(DOCS.glob("*.md")) if farm_commands(page.name))]


@pytest.mark.parametrize("line", command_examples(executed_by("test_an_example_works")))
def test_an_example_is_a_command_that_exists_with_its_options(line: str) -> None:
    assert_exists([word for word in shlex.split(line) if "=" not in word or " " in word])


@pytest.mark.parametrize("page", PAGES)
def test_every_command_of_a_page_exists_with_its_options(page: str) -> None:
    for line in farm_commands(page):
        words = words_of(line)
        start = next(n for n, word in enumerate(words) if word.rpartition("/")[2] == "farm")
        assert_exists([word for word in takewhile(is_word, words[start:]) if word != "--help"])


def words_of(line: str) -> list[str]:
    """Return the words of a line of shell code without its comment, and the signs between two programs."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|&;()")
    lexer.whitespace_split = True
    return list(lexer)


def is_word(part: str) -> bool:
    """Return True if this part of a line of shell code is not a sign between two programs."""
    return not set(part) <= set("|&;()")


def assert_exists(words: list[str]) -> None:
    """Assert that a command takes these words, of which the first is its program."""
    known = commands()
    depth = max(n for n in range(len(words)) if " ".join(words[1 : 1 + n]) in known)
    command = known[" ".join(words[1 : 1 + depth])]

    # Raises an error for what the command does not take; nothing runs.
    context = command.make_context(command.name, words[1 + depth :], resilient_parsing=False)
    assert context.command is command
    assert not hasattr(command, "commands") or all(word.startswith("-") for word in words[1 + depth : 2 + depth])


def test_colours_are_off_where_they_are_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    main_end, other_end = os.openpty()
    with os.fdopen(other_end, "w") as terminal:
        assert has_colours(terminal)
        monkeypatch.setenv("NO_COLOR", "1")
        assert not has_colours(terminal)
    os.close(main_end)


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_one_command_installs_completion(tmp_path: Path, shell: str) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1",
    }
    program = Path(sys.executable).with_name("farm")

    done = subprocess.run(
        [program, "--install-completion", shell],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode == 0, done.stderr
    installed = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert any("FARM_COMPLETE" in path.read_text() for path in installed)


def test_the_version(run: Runner) -> None:
    assert run("--version") == Ended(0, f"srpo-farm {__version__}\n", "")


@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["render"], "farm: Invalid value: give either PROMPT or --from FILE. See `farm render --help`."),
        (["render", "a fox", "--size"], "farm: Option '--size' requires an argument."),
        (["render", "a fox", "--steps", "many"], "farm: Invalid value for '--steps': "),
        (["render", "a fox", "--sise", "square"], "farm: No such option: --sise"),
        (["rendr", "a fox"], "farm: No such command 'rendr'."),
        (["keys", "create"], "farm: Missing argument 'NAME'. See `farm keys create --help`."),
    ],
)
def test_wrong_usage_is_one_line_and_status_2(run: Runner, words: list[str], line: str) -> None:
    ended = run(*words)

    assert (ended.status, ended.out) == (2, "")
    assert ended.err.startswith(line)
    assert ended.err.count("\n") == 1


def test_a_farm_that_is_not_there_is_one_line_and_status_1(run: Runner, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FARM_URL", "http://127.0.0.1:1")

    ended = run("jobs")

    assert ended == Ended(
        1,
        "",
        "farm: No farm answers at http://127.0.0.1:1. Start one with `farm up`, or set FARM_URL to its address.\n",
    )


@pytest.mark.parametrize(
    ("words", "offered"), [("farm keys ", {"create", "list", "limit", "revoke"}), ("farm render --si", {"--size"})]
)
def test_shell_completion_offers_commands_and_options(
    run: Runner, monkeypatch: pytest.MonkeyPatch, words: str, offered: set[str]
) -> None:
    monkeypatch.setenv("_FARM_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", words)
    monkeypatch.setenv("COMP_CWORD", "2")

    assert set(run().out.split()) == offered
