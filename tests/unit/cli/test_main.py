"""`farm` itself: help, version, shell completion, and errors as one line with an exit status."""

from __future__ import annotations

import sys
from typing import NamedTuple

import pytest

from farm import __version__
from farm.cli.main import main

COMMANDS = [
    *("up", "api", "worker", "demo", "render", "models", "top", "usage", "pause", "resume", "doctor"),
    *("backup", "restore"),
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
    listed = ended.out.partition("Commands:\n")[2].splitlines()
    assert [line.split()[0] for line in listed] == COMMANDS


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
        1, "", "farm: No farm answers at http://127.0.0.1:1. Start one with `farm up`, or set FARM_URL.\n"
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
