"""Alertmanager, and the person whom it calls: a webhook that hears of each alert which fires or resolves."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from farm.process import child
from tests.farms import free_port
from tests.prometheus import debian_program
from tests.unit.deploy import DEPLOY
from tests.webhook_receiver import Receiver, running_receiver


class Pager:
    """Alerts that Alertmanager has told of so far."""

    def __init__(self, receiver: Receiver) -> None:
        self._receiver = receiver

    def count(self) -> int:
        """Return the number of messages so far."""
        return len(self._receiver.received)

    def names(self, status: str, *, since: int) -> list[str]:
        """Return the alerts of the messages from number `since` on that say `firing` or `resolved`, each once."""
        messages = [message.json for message in self._receiver.received[since:]]
        return list(
            dict.fromkeys(message["groupLabels"]["alertname"] for message in messages if message["status"] == status)
        )


@contextmanager
def running_pager(folder: Path) -> Iterator[tuple[Pager, str]]:
    """Yield a pager, and the address of its Alertmanager."""
    with running_receiver() as receiver:
        address = f"127.0.0.1:{free_port()}"
        configuration = folder / "alertmanager.yml"
        configuration.write_text(yaml.safe_dump(_configuration(receiver.url)))
        program = debian_program("prometheus-alertmanager", "prometheus-alertmanager")
        options = [f"--config.file={configuration}", f"--storage.path={folder / 'alertmanager'}"]
        command = child.command(program, *options, f"--web.listen-address={address}", "--cluster.listen-address=")
        process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
        try:
            yield Pager(receiver), address
        finally:
            process.terminate()
            process.wait(20)


def _configuration(webhook: str) -> dict[str, Any]:
    """Return deploy/'s own configuration, which sends each message at once, to this webhook."""
    shipped: dict[str, Any] = yaml.safe_load((DEPLOY / "alertmanager" / "alertmanager.yml").read_text())
    hurry = {"group_wait": "0s", "group_interval": "1s"}
    receivers = [one | {"webhook_configs": [{"url": webhook}]} for one in shipped["receivers"]]
    return shipped | {"route": shipped["route"] | hurry, "receivers": receivers}
