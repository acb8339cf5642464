"""The blocks of code of the documentation, and which test executes each: what readers copy works."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

DOCS = Path(__file__).parents[1] / "docs"

_FENCED = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
#: What begins a reason why no test executes a block.
NOT_RUN = "not run: "
_PYTHON, _JAVASCRIPT = "test_the_python_of_a_page_brings_an_image", "test_the_javascript_of_a_page_brings_an_image"
_COMMANDS, _CLIENT_CALLS = "test_the_commands_of_a_page_work", "test_the_readmes_commands_work_one_after_the_other"
_KEYS = "test_a_farm_with_keys_over_https_is_started_as_the_pages_say"
_REAL_WEIGHTS = "test_real_weights_are_downloaded_and_served"
_CHECKER = "test_a_checker_is_downloaded_and_found"
_WALK = "test_the_first_webhook_arrives"
_ALERT = "test_the_commands_of_a_section_show_its_fault_and_end_it"
_FIGURES = NOT_RUN + "the figures of a training that took hours"
#: The test that executes each page's blocks of a language: one for all of them, or one for each, in their order.
EXECUTED_BY: dict[tuple[str, str], str | tuple[str, ...]] = {
    ("README.md", "python"): _PYTHON,
    ("README.md", "sh"): ("test_every_installed_package_is_one_of_ours", *[_CLIENT_CALLS] * 2, _KEYS, _REAL_WEIGHTS),
    ("CONTRIBUTING.md", "sh"): "test_the_tests_that_are_named_are_there",
    ("acceleration.md", "sh"): "test_levels_are_calibrated_and_used",
    ("capacity.md", "csv"): _COMMANDS,
    ("capacity.md", "sh"): _COMMANDS,
    ("cards.md", "sh"): "test_weights_are_converted_and_verified",
    ("chaos.md", "sh"): "test_make_takes_the_options_of_the_pages",
    # Those of services, renders, keys and weights are run in their own tests, with other values.
    ("cli.md", "console"): "test_an_example_works",
    **{(f"coming-from-{name}.md", "python"): _PYTHON for name in ("aimlapi", "fal", "openai", "siraya", "wavespeed")},
    **{(f"coming-from-{name}.md", "js"): _JAVASCRIPT for name in ("aimlapi", "fal", "openai", "siraya", "wavespeed")},
    ("coming-from-fal.md", "sh"): "test_over_tls_the_environment_alone_redirects_it",
    ("coming-from-wavespeed.md", "sh"): "test_wavespeeds_own_command_line_renders_and_lists",
    ("events.md", "sh"): "test_curl_follows_all_jobs",
    ("high-volume.md", "json"): "test_the_line_of_the_page_is_taken",
    ("high-volume.md", "python"): "test_the_example_of_the_page_runs",
    ("high-volume.md", "sh"): _COMMANDS,
    ("logs.md", "sh"): "test_a_call_is_followed_through_the_log",
    ("lora.md", "sh"): "test_lora_files_are_fused_at_a_start",
    ("metrics.md", ""): "test_prometheus_takes_the_expression_of_the_page",
    ("miniature.md", ""): _FIGURES,
    ("production.md", "sh"): (_KEYS, _COMMANDS),
    ("python-client.md", "python"): "test_the_examples_of_its_page_work",
    ("redis.md", ""): "test_a_farm_needs_no_more_than_the_documented_rights",
    ("runbook.md", "sh"): (
        "test_a_farm_is_set_up_and_upgraded_by_the_runbook",
        "test_a_farm_is_set_up_and_upgraded_by_the_runbook",
        *["test_a_farm_is_backed_up_under_load_and_restored"] * 2,
        "test_a_key_is_replaced_without_a_gap",
        *[_ALERT] * 29,
    ),
    ("safety.md", "sh"): _CHECKER,
    ("start.md", "console"): (
        "test_make_up_starts_a_farm", "test_the_command_renders", "test_make_up_starts_a_farm",
        "test_prometheus_reads_the_farm_and_the_alerts",
    ),
    ("start.md", "python"): _WALK,
    ("start.md", "sh"): _WALK,
    ("traces.md", "sh"): "test_a_farm_with_traces_is_started_as_the_page_says",
    ("webhooks.md", "console"): "test_the_receiver_of_the_page_is_run",
    ("webhooks.md", "go"): "test_a_receiver_takes_what_is_signed_and_nothing_else",
    ("webhooks.md", "js"): "test_a_receiver_takes_what_is_signed_and_nothing_else",
    ("webhooks.md", "python"): (
        "test_the_verification_of_the_page_knows_genuine_from_forged",
        "test_the_receiver_answers_204_to_what_is_signed_and_401_to_the_rest",
        "test_the_verifier_of_wavespeeds_dialect_knows_genuine_from_forged",
        "test_the_verifier_of_fals_dialect_knows_genuine_from_forged",
    ),
    ("webhooks.md", "sh"): _COMMANDS,
}  # fmt: skip


class Snippet(NamedTuple):
    """A block of code on a page, and its number among the page's blocks of its language."""

    page: str
    language: str
    number: int
    code: str


def pages() -> list[Path]:
    """Return the pages whose code readers copy."""
    return [DOCS.parent / "README.md", DOCS.parent / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]


def all_snippets() -> list[Snippet]:
    """Return every block of code of every page."""
    found: list[Snippet] = []
    for path in pages():
        numbers: dict[str, int] = {}
        for language, code in _FENCED.findall(path.read_text()):
            numbers[language] = numbers.get(language, 0) + 1
            found.append(Snippet(path.name, language, numbers[language], code))
    return found


def executed_by(test: str, language: str = "") -> list[Snippet]:
    """Return the blocks that this test has to execute, of one language or of all."""
    found = [snippet for snippet in all_snippets() if executor_of(snippet) == test]
    return [snippet for snippet in found if language in ("", snippet.language)]


def command_examples(blocks: list[Snippet]) -> list[str]:
    """Return the commands of blocks of the page of commands."""
    lines = {line.removeprefix("$ ") for block in blocks for line in block.code.splitlines()}
    return sorted(line for line in lines if "[OPTIONS]" not in line)


def executor_of(snippet: Snippet) -> str | None:
    """Return the test that executes a block, why none does, or None if that is not settled."""
    tests = EXECUTED_BY.get((snippet.page, snippet.language), ())
    if isinstance(tests, str):
        return tests
    return tests[snippet.number - 1] if snippet.number <= len(tests) else None


def snippets(page: str, language: str = "python") -> list[str]:
    """Return a page's blocks of code in a language."""
    return re.findall(rf"```{language}\n(.*?)```", (DOCS / page).read_text(), re.DOTALL)


def farm_commands(page: str) -> list[str]:
    """Return the lines of a page's shell code that call `farm`, each with what comes before it and after it."""
    return [line for code in snippets(page, "sh") for line in farm_lines(code)]


def farm_lines(code: str) -> list[str]:
    """Return the lines of shell code that call `farm`."""
    return [line for line in joined_lines(code) if re.search(r"(^|[ /(])farm [a-z]", line.partition(" #")[0])]


def joined_lines(code: str) -> list[str]:
    """Return the lines of shell code, those that are continued as one."""
    return [line for line in code.replace("\\\n", " ").splitlines() if line.strip()]


def plain_lines(code: str) -> list[str]:
    """Return the lines of shell code without their comments."""
    return [re.sub(r"\s+#.*$", "", line) for line in joined_lines(code)]


def names_of(test: str) -> dict[str, Any]:
    """Return what the Python block that a test executes defines."""
    (snippet,) = executed_by(test)
    found: dict[str, Any] = {}
    exec(snippet.code, found)
    return found


def name_of(snippet: Snippet) -> str:
    """Return a name for a block, to tell tests apart."""
    return f"{snippet.page}-{snippet.number}"
