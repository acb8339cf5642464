"""The table of error codes: complete, and without a row that nothing uses."""

from __future__ import annotations

import importlib
import pkgutil
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

import api
import farm
import workers
from farm.domain.error_codes import FAILURES, JOB_FAILURES, Code, job_failure
from farm.domain.errors import FarmError

ROOT = Path(__file__).parents[3]
TABLE = ROOT / "farm" / "domain" / "error_codes.py"
#: Their imports need torch; their errors are those of the domain.
PIPELINES = "workers.pipelines"

#: How a script ends a job with a code.
_IN_LUA = re.compile(r"""\{'code', '(\w+)'|\bstop(?:_job)?\([\w\[\]]+, '(\w+)'""")


def errors_of(kind: type[FarmError]) -> Iterator[type[FarmError]]:
    """Yield every subclass, direct and indirect."""
    yield kind
    for child in kind.__subclasses__():
        yield from errors_of(child)


def product_errors() -> set[type[FarmError]]:
    for package in (api, farm, workers):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not (module.name.startswith(PIPELINES) or module.name.endswith("__main__")):
                importlib.import_module(module.name)
    return {kind for kind in errors_of(FarmError) if kind.__module__.split(".")[0] in ("api", "farm", "workers")}


def product_text() -> str:
    files = [path for name in ("api", "farm", "workers") for path in (ROOT / name).rglob("*.py") if path != TABLE]
    return "\n".join(path.read_text() for path in files)


def codes_in_lua() -> set[str]:
    scripts = (ROOT / "farm" / "jobstore" / "lua").rglob("*.lua")
    return {code for path in scripts for pair in _IN_LUA.findall(path.read_text()) for code in pair if code}


def test_every_code_has_a_row_and_every_row_a_code() -> None:
    assert set(FAILURES) == set(Code)


@pytest.mark.parametrize("code", Code)
def test_a_code_refuses_calls_or_ends_jobs(code: Code) -> None:
    assert FAILURES[code].call or FAILURES[code].job


@pytest.mark.parametrize("code", Code)
def test_a_message_is_a_plain_sentence(code: Code) -> None:
    message = FAILURES[code].message

    assert message[0].isupper()
    assert message.endswith(".")
    assert len(message) < 100


def test_every_error_class_names_a_code_of_the_table() -> None:
    codes = {kind.code for kind in product_errors()}

    assert codes <= set(Code)
    assert all(isinstance(code, Code) for code in codes)


def test_scripts_end_jobs_with_codes_of_the_table() -> None:
    assert codes_in_lua() <= set(JOB_FAILURES)
    assert {
        "attempts_exhausted",
        "render_timeout",
        "start_timeout",
        "preparation_failed",
        "cancelled",
    } <= codes_in_lua()


def test_every_code_is_used() -> None:
    named = set(re.findall(r"\bCode\.([A-Z_]+)\b", product_text()))

    assert {code.name for code in Code} - named - {Code(code).name for code in codes_in_lua()} == set()


def test_no_code_is_written_out_where_the_table_has_its_name() -> None:
    written = set(re.findall(r"""(?:\bcode = |Unusable\w+\(\s*)["'](\w+)["']""", product_text()))

    assert written == set()


@pytest.mark.parametrize("code", [code for code in Code if (row := FAILURES[code].call) and row.retry_after])
def test_only_what_may_pass_invites_a_retry(code: Code) -> None:
    row = FAILURES[code].call

    assert row is not None
    assert row.status in (429, 503)


def test_a_job_with_a_code_of_another_version_is_an_error_of_the_farm() -> None:
    assert job_failure("never heard of").status == 500
