"""The job store's scripts: each is sent with the shared functions that it names, and no others."""

from __future__ import annotations

import re
from importlib import resources

import pytest

from farm.jobstore.scripts import NAMES, script_text, shared_definitions, with_shared

_FOLDER = resources.files("farm.jobstore") / "lua"
_TOP_LEVEL = re.compile(r"^local (?:function )?(\w+)", re.MULTILINE)


def own_text(name: str) -> str:
    return (_FOLDER / f"{name}.lua").read_text()


def sent_with(name: str) -> list[str]:
    """Return the shared definitions that precede a script, in order."""
    return _TOP_LEVEL.findall(script_text(name).removesuffix(own_text(name)))


def test_a_script_is_sent_with_what_it_names_and_what_that_names() -> None:
    assert sent_with("remove_worker") == ["P"]
    needed = ["P", "job_key", "integer", "now_us", "SECOND_US", "now", "RECONNECT_US", "end_call_without_result"]
    assert sent_with("call_disconnected") == needed
    assert {"dequeue", "take_from_queue", "enqueue_delivery", "is_allowed"} <= set(sent_with("complete"))


@pytest.mark.parametrize("name", NAMES)
def test_a_definition_stands_once_and_behind_what_it_names(name: str) -> None:
    before: set[str] = set()
    for definition in sent_with(name):
        assert definition not in before
        assert set(_TOP_LEVEL.findall(with_shared(definition + "\n"))) - {definition} <= before
        before.add(definition)


def test_only_what_several_scripts_need_is_shared() -> None:
    """A function that one script alone uses is in that script."""
    lonely = [name for name in shared_definitions() if sum(name in sent_with(script) for script in NAMES) < 2]
    assert lonely == []


def test_a_name_in_a_comment_or_a_text_brings_nothing() -> None:
    assert with_shared("-- stop\nreturn 'transition'\n") == "-- stop\nreturn 'transition'\n"
