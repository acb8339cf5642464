"""Numbers of options that nothing can work with: refused in one line that names the option."""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import pytest

from farm.cli import main
from farm.cli.search import moment

MANY = "9" * 30
REFUSED = [
    *((command, "--port", value) for command in ("up", "api", "doctor") for value in ("0", "-1", "65536", MANY, "8e3")),
    *(("up", "--workers", value) for value in ("0", "-1", "1025", MANY, "9" * 5000, "1.5")),
    *(("jobs list", option, value) for option in ("-n", "--limit") for value in ("0", "-1", MANY)),
    *(("webhooks list", option, value) for option in ("-n", "--limit") for value in ("0", MANY)),
    *(("keys limit ada", option, "-1") for option in ("--rate", "--waiting", "--images-per-day")),
    *(("keys limit ada", option, MANY) for option in ("--rate", "--waiting", "--images-per-day")),
    *(("weights calibrate", "--steps", value) for value in ("0", "51", MANY)),
    *(("weights calibrate", "--images", value) for value in ("0", "-1")),
    *(("simulate", "--gpus", value) for value in ("0", MANY)),
]


@pytest.mark.parametrize(("command", "option", "value"), REFUSED)
def test_an_absurd_number_is_refused_by_the_name_of_its_option(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], command: str, option: str, value: str
) -> None:
    monkeypatch.setattr(sys, "argv", ["farm", *command.split(), option, value])

    with pytest.raises(SystemExit) as ended:
        main.main()

    printed = capsys.readouterr().err
    assert (ended.value.code, printed.count("\n")) == (2, 1)
    assert option in printed


def test_a_time_before_the_first_year_is_the_first_one() -> None:
    assert moment("999999d") == datetime.min.replace(tzinfo=UTC)
