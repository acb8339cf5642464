"""Texts of callers, receivers and servers in every command: shown as they are, neither markup nor control sequences."""

from __future__ import annotations

import json
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from flask.testing import FlaskClient

from farm.bootstrap import Farm
from farm.cli import up
from farm.cli.download import FinishedJob
from farm.cli.render import report
from farm.domain.delivery import Attempt, Outcome
from farm.domain.pause import Group
from farm.printable import printable
from farm.process.child import EXIT_CONFIG
from tests.service.api.calls import submit
from tests.service.cli.commands import Ended, Runner, served
from tests.service.jobstore.jobs import FACTS

#: Text → what a terminal is given.
TEXTS = {
    "a [/b] b": "a [/b] b",
    "a [x] b": "a [x] b",
    "a [red]b": "a [red]b",
    "a [link=https://a.example]b": "a [link=https://a.example]b",
    "a :smile: b": "a :smile: b",
    "a \\[b] \\x1b": "a \\[b] \\x1b",
    "a \x1b]0;title\x07": "a \\x1b]0;title\\x07",
    "a \x1b[2Jb": "a \\x1b[2Jb",
    "a \x9b2Jb": "a \\x9b2Jb",
    "a \r\nb": "a \\r\\nb",
    "a \b\b\x7f": "a \\x08\\x08\\x7f",
    "a \u202egpj.b": "a \\u202egpj.b",
    "a \u2066b\u2069": "a \\u2066b\\u2069",
    "a \u2028b\u2029": "a \\u2028b\\u2029",
    "a \ufeffb\u200b": "a \\ufeffb\\u200b",
    "狐狸 🦊 a\u200db": "狐狸 🦊 a\u200db",
}
#: Words of each command that shows what others wrote.
LISTINGS = (["jobs"], ["workers"], ["webhooks"], ["webhooks", "show", "<delivery>"])
#: Words of commands that sum up what many wrote.
OVERVIEWS = (
    ["top", "--once"],
    ["models"],
    ["usage"],
    ["usage", "--csv"],
)
#: Words of commands that refuse the text, and quote it.
REFUSALS = (
    ["jobs", "show", "<text>"],
    ["jobs", "list", "--status", "<text>"],
    ["jobs", "cancel", "<text>"],
    ["jobs", "retry", "<text>"],
    ["jobs", "delete", "<text>"],
    ["workers", "drain", "<text>"],
    ["webhooks", "show", "<text>"],
    ["webhooks", "redeliver", "<text>"],
    ["webhooks", "test", "<text>"],
    ["webhooks", "list", "--state", "<text>"],
    ["keys", "create", "<text>"],
    ["keys", "create", "a", "--rate", "<text>"],
    ["keys", "<text>"],
    ["storage", "<text>"],
    ["models", "<text>"],
    ["up", "--workers", "<text>"],
    ["up", "--port", "<text>"],
    ["up", "--host", "<text>"],
    ["up", "--tls-cert", "<text>", "--tls-key", "<text>"],
    ["api", "--port", "<text>"],
    ["render", "a fox", "--size", "<text>"],
    ["render", "a fox", "--model", "<text>"],
    ["render", "a fox", "--image", "<text>"],
    ["render", "a fox", "--acceleration", "<text>"],
    ["<text>"],
)


def controls(text: str) -> set[str]:
    """Return the characters that a terminal may obey, less the ends of lines."""
    kinds = {"Cc", "Cf", "Cs", "Zl", "Zp"}
    return {character for character in text if unicodedata.category(character) in kinds} - {"\n", "\u200d"}


def announce(farm: Farm, api: FlaskClient, text: str) -> str:
    """Leave `text` in a prompt, a worker's facts and a receiver's answers; return the id of the delivery."""
    job_id = submit(api, prompt=text, webhook_url="https://hook.example/")
    farm.store.renew(f"w {text}", FACTS | {"version": text}, [])
    for attempt in (Attempt(1, 1.0, 500, answer=text), Attempt(1, 1.0, error=text)):
        (due,) = farm.deliveries.claim(1, lease_seconds=60)
        farm.deliveries.finish(due, Outcome.WAITING, attempt)
    return f"{job_id}-1"


@pytest.mark.parametrize("text", TEXTS)
def test_text_of_others_is_shown_as_it_is(farm: Farm, api: FlaskClient, run: Runner, text: str) -> None:
    delivery = announce(farm, api, text)

    with served(api.application) as url:
        ended = [run.at(url)(*(delivery if word == "<delivery>" else word for word in words)) for words in LISTINGS]
        shown, page = (
            run.at(url)("jobs", "show", delivery.removesuffix("-1"), *options) for options in (("--json",), ())
        )

    for one in ended:
        assert (one.status, one.err, controls(one.out)) == (0, "", set())
        assert TEXTS[text] in one.out
    assert (page.status, controls(page.out)) == (0, set())
    assert json.loads(shown.out)["prompt"] == text
    assert shown.out.isascii()
    assert controls(shown.out) == set()


@pytest.mark.parametrize("text", TEXTS)
def test_an_overview_obeys_no_text_of_others(farm: Farm, api: FlaskClient, run: Runner, text: str) -> None:
    announce(farm, api, text)
    farm.store.pause(Group("caller", text))

    with served(api.application) as url:
        ended = [run.at(url)(*words) for words in OVERVIEWS]

    assert [(one.status, one.err, controls(one.out)) for one in ended] == [(0, "", set())] * len(OVERVIEWS)
    assert TEXTS[text] in " ".join(ended[0].out.split("\n"))


@pytest.mark.parametrize("words", REFUSALS, ids=" ".join)
def test_a_refusal_is_one_line_whatever_it_quotes(
    farm: Farm, api: FlaskClient, run: Runner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, words: list[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(up, "set_up_log", lambda *_, **__: None)

    with served(api.application) as url:
        ended = [run.at(url)(*(text if word == "<text>" else word for word in words)) for text in TEXTS]

    assert [one for one in ended if not is_one_line(one)] == []


def is_one_line(ended: Ended) -> bool:
    """Return True if a command failed with one harmless line on stderr."""
    is_line = ended.err.startswith("farm: ") and ended.err.count("\n") == 1
    return ended.status in (1, 2, EXIT_CONFIG) and ended.out == "" and is_line and controls(ended.err) == set()


@pytest.mark.parametrize("text", TEXTS)
def test_a_report_shows_texts_as_they_are(capsys: pytest.CaptureFixture[str], text: str) -> None:
    view: dict[str, Any] = {"prompt": text, "original_prompt": "a", "timings": {text: 1.0}, "warnings": [text]}

    report(FinishedJob(view, [Path("out") / text.replace("/", "-")]))

    shown = TEXTS[text]
    assert capsys.readouterr().out.split("\n") == [
        f"prompt: {shown}",
        f"out/{shown.replace('/', '-')}  ({shown} 1.00 s)",
        f"warning: {shown}",
        "",
    ]


def test_every_control_character_is_escaped() -> None:
    assert controls("".join(printable(chr(number)) for number in range(0x110000))) == {"\u200c"}
