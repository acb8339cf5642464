"""The end of a worker process: its exit status, and one line that names its card."""

from __future__ import annotations

import signal
import sys

import pytest

from farm.domain.errors import ConfigurationError, FarmError, NoDevice
from farm.process.child import EXIT_CONFIG, EXIT_NO_DEVICE
from workers import command_line


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (NoDevice("no card"), EXIT_NO_DEVICE),
        (ConfigurationError("no weights"), EXIT_CONFIG),
        (FarmError("no luck"), 1),
    ],
)
def test_an_error_is_one_line_and_tells_the_supervisor_what_to_do(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: FarmError, status: int
) -> None:
    for name in ("build", "say_if_storage_fails", "set_up_log"):
        monkeypatch.setattr(command_line, name, lambda *_, **__: _Farm())
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["farm worker", "--data-dir", "data", "--device-name", "cuda:3"])

    def work(_farm: object, _options: object) -> int:
        raise error

    with pytest.raises(SystemExit) as ended:
        command_line.run("farm worker", work, service="worker")

    assert ended.value.code == status
    assert capsys.readouterr().err == f"farm worker on cuda:3: {error}\n"


class _Farm:
    """Objects of a process that are not used."""

    storage = ownership = None
