"""The documentation's commands, paths and links work."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
import threading
import time
import tomllib
from collections import Counter
from http.server import HTTPServer
from pathlib import Path
from typing import Any

import pytest
import urllib3
from packaging.requirements import Requirement
from standardwebhooks.webhooks import WebhookVerificationError

from farm.dialects import limits_page
from farm.dialects.fields import FIELDS
from farm.domain.acceleration import BUNDLED
from farm.domain.catalogue import CLIP_MARGINS, MAX_STEPS, MODELS, SAFETY_THRESHOLDS, UNSAFE_LABELS, Model
from farm.telemetry import page as metrics_page
from farm.webhooks import signing
from tests.docs_snippets import (
    DOCS,
    EXECUTED_BY,
    NOT_RUN,
    all_snippets,
    executed_by,
    executor_of,
    joined_lines,
    names_of,
    pages,
    plain_lines,
)

BODY = b'{"status":"OK"}'
SECRET = signing.new_secret()


def lower(headers: dict[str, str]) -> dict[str, str]:
    return {name.lower(): value for name, value in headers.items()}


def test_the_verification_of_the_page_knows_genuine_from_forged() -> None:
    (snippet,) = executed_by("test_the_verification_of_the_page_knows_genuine_from_forged")
    body = b'{"type": "job.completed"}'
    headers = signing.standard(SECRET, message_id="m", timestamp=int(time.time()), body=body)
    names: dict[str, Any] = {"secret": SECRET, "headers": headers, "body": body}

    exec(snippet.code, names)

    assert names["event"] == {"type": "job.completed"}
    with pytest.raises(WebhookVerificationError):
        exec(snippet.code, names | {"body": body + b" "})


def test_the_verifier_of_wavespeeds_dialect_knows_genuine_from_forged() -> None:
    verify = names_of("test_the_verifier_of_wavespeeds_dialect_knows_genuine_from_forged")["is_from_wavespeed"]
    headers = lower(signing.wavespeed(SECRET, message_id="m", timestamp=1_760_000_000, body=BODY))

    assert verify(SECRET, headers, BODY)
    assert not verify(SECRET, headers, BODY + b" ")
    assert not verify(signing.new_secret(), headers, BODY)


def test_the_verifier_of_fals_dialect_knows_genuine_from_forged() -> None:
    verify = names_of("test_the_verifier_of_fals_dialect_knows_genuine_from_forged")["is_from_fal"]
    key, other = (signing.read_key(signing.new_key()) for _ in range(2))
    headers = lower(signing.fal(key, request_id="r", user_id="u", timestamp=1_760_000_000, body=BODY))

    assert verify(signing.jwks(key), headers, BODY)
    assert not verify(signing.jwks(key), headers, BODY + b" ")
    assert not verify(signing.jwks(other), headers, BODY)


def test_the_receiver_answers_204_to_what_is_signed_and_401_to_the_rest(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    receiver = names_of("test_the_receiver_answers_204_to_what_is_signed_and_401_to_the_rest")
    body = b'{"type": "job.completed"}'
    headers = signing.standard(SECRET, message_id="m", timestamp=int(time.time()), body=body)
    monkeypatch.setenv("WEBHOOK_SECRET", SECRET)

    with HTTPServer(("127.0.0.1", 0), receiver["Receiver"]) as server:
        threading.Thread(target=server.serve_forever).start()
        url = f"http://127.0.0.1:{server.server_port}"
        answers = [urllib3.request("POST", url, body=sent, headers=headers, timeout=10) for sent in (body, body + b" ")]
        server.shutdown()

    assert [answer.status for answer in answers] == [204, 401]
    assert capsys.readouterr().out == "job.completed\n"


ROOT = DOCS.parent


def test_every_block_of_code_is_executed_by_a_test_that_asks_for_it() -> None:
    tests = "".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    asked = set(re.findall(r'(?:executed_by|names_of|lines_of)\(\s*"(\w+)"', tests))
    there = asked & set(re.findall(r"def (test_\w+)\(", tests))
    settled = {snippet: executor_of(snippet) or "" for snippet in all_snippets()}

    assert [snippet for snippet, test in settled.items() if test not in there and not test.startswith(NOT_RUN)] == []
    assert sorted(asked - {*settled.values()}) == []


def test_the_table_of_blocks_has_all_of_them_and_no_others() -> None:
    marks = sum(len(re.findall(r"^ *```", page.read_text(), re.MULTILINE)) for page in pages())
    blocks = Counter((snippet.page, snippet.language) for snippet in all_snippets())

    assert blocks.total() == marks / 2, "a block is indented, or its end is missing"
    assert blocks.keys() == EXECUTED_BY.keys()
    assert {key: len(tests) for key, tests in EXECUTED_BY.items() if isinstance(tests, tuple)}.items() <= blocks.items()


def test_every_installed_package_is_one_of_ours() -> None:
    """Of those that a page has pip install: extras that there are, and other packages in the versions of ours."""
    (virtual_environment,) = executed_by("test_every_installed_package_is_one_of_ours")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = {f"srpo-farm[{extra}]" for extra in project["optional-dependencies"]}
    ours = {found.name: found for part in project["optional-dependencies"].values() for found in map(Requirement, part)}
    lines = [line for page in pages() for line in re.findall(r"pip install ([^`\n]+)", page.read_text())]
    words = {word for line in lines for word in shlex.split(line.partition(" --index-url")[0])} - {"-e", "."}
    wanted = [Requirement(re.sub(r"^\.", "srpo-farm", word)) for word in sorted(words)]

    assert len(wanted) > 8
    assert [one.name for one in wanted if one.name in virtual_environment.code] == ["torch"]
    for one in wanted:
        assert {f"{one.name}[{extra}]" for extra in one.extras} <= extras
        assert one.extras or str(one.specifier) in ("", str(ours[one.name].specifier))


def test_make_takes_the_options_of_the_pages() -> None:
    (snippet,) = executed_by("test_make_takes_the_options_of_the_pages")
    every, few = [
        subprocess.check_output([*line.split(), "--dry-run"], cwd=ROOT, text=True) for line in plain_lines(snippet.code)
    ]

    assert re.search(r"tests\.chaos --jobs 10000 *$", every, re.MULTILINE)
    assert re.search(r"tests\.chaos --jobs 1000 --seed 7$", few, re.MULTILINE)


@pytest.mark.full
def test_the_tests_that_are_named_are_there() -> None:
    (snippet,) = executed_by("test_the_tests_that_are_named_are_there")
    for line in joined_lines(snippet.code):
        program = line.replace(".venv/bin/", f"{sys.executable} -m ") + " --collect-only -q"
        subprocess.run(["bash", "-c", program], cwd=ROOT, capture_output=True, check=True)


@pytest.mark.parametrize("page", [*ROOT.glob("*.md"), *DOCS.glob("*.md")], ids=lambda page: page.name)
def test_every_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?://)([^)#]*)(?:#[^)]*)?\)", page.read_text())

    assert [link for link in links if link and not (page.parent / link).exists()] == []


def test_the_readme_can_be_read_in_one_go() -> None:
    assert len((ROOT / "README.md").read_text().splitlines()) < 250


def test_every_path_that_a_page_names_is_there() -> None:
    """Folders and files in code marks, as `farm/cli/` or `tests/chaos/judge.py`; scripts by their name alone."""
    pages = [ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md", *DOCS.glob("*.md")]
    named = {name for page in pages for name in re.findall(r"`([\w./-]+)`", page.read_text())}
    paths = {name for name in named if re.match(r"(api|docs|farm|miniature|tests|workers)/[\w.]", name)}
    scripts = {f"farm/jobstore/lua/{name}" for name in named if re.fullmatch(r"\w+\.lua", name)}

    assert len(paths) > 50
    assert len(scripts) > 10
    assert [path for path in sorted(paths | scripts) if "NAME" not in path and not (ROOT / path).exists()] == []


def test_every_mask_is_on_the_page_of_acceleration() -> None:
    page = (DOCS / "acceleration.md").read_text()

    for name in ("none", "regular", "high"):
        mask = BUNDLED.level(name).mask(28)
        assert f"| `{name}` | {mask.count('1')} | `{mask}` |" in page
    for steps in range(1, MAX_STEPS + 1):
        assert f"| {steps} | `{BUNDLED.regular.mask(steps)}` | `{BUNDLED.high.mask(steps)}` |" in page


def test_the_page_of_limits_is_up_to_date() -> None:
    assert (DOCS / "limits.md").read_text() == limits_page.page(), "run `make docs`"


def test_the_page_of_metrics_is_up_to_date() -> None:
    assert (DOCS / "metrics.md").read_text() == metrics_page.page(), "run `make docs`"


@pytest.mark.parametrize("model", MODELS, ids=lambda model: model.name)
def test_every_range_of_a_model_is_on_the_page_of_limits(model: Model) -> None:
    rows = [row for row in limits_page.page().splitlines() if row.startswith(f"| `{model.name}` |")]

    for parameters in (model.parameters, *model.parameters_of.values()):
        spans = [span for span in (parameters.steps, parameters.guidance, parameters.strength) if span]
        ends = [f"| {span.min}, fixed" if span.min == span.max else f"| {span.min}–{span.max}; " for span in spans]
        assert any(all(end in row for end in ends) for row in rows)


def test_the_labels_that_count_as_unsafe_are_on_the_page_of_checkers() -> None:
    assert ", ".join(f"`{label}`" for label in UNSAFE_LABELS) in (DOCS / "safety.md").read_text()


def test_the_six_thresholds_of_tolerance_are_in_the_openapi_document_and_on_the_page() -> None:
    for model in MODELS:
        described = FIELDS[model.name].model_json_schema()["properties"].get("safety_tolerance", {})
        for tolerance, threshold in SAFETY_THRESHOLDS.items():
            assert f"{threshold} at {tolerance}" in described.get("description", f"{threshold} at {tolerance}")
            assert f"| {tolerance} | {threshold} |" in limits_page.page()
    for tolerance, margin in CLIP_MARGINS.items():
        shown = f"{margin:g}".replace("-", "−")
        assert f"| {tolerance} | {SAFETY_THRESHOLDS[tolerance]} | {shown} |" in limits_page.page()
        assert f"| {tolerance} | {SAFETY_THRESHOLDS[tolerance]} | {shown} |" in (DOCS / "safety.md").read_text()
    assert "0.35 at 2" in FIELDS["kontext"].model_json_schema()["properties"]["safety_tolerance"]["description"]
