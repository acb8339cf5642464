"""`farm doctor`: check the installation, and print the command that fixes each problem."""

from __future__ import annotations

import shutil
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from farm.cli.terminal import say_json
from farm.doctor import weights
from farm.doctor.examination import Examination
from farm.doctor.finding import Finding, Mark
from farm.printable import printable, say
from farm.settings import Settings, read

_SIGNS = {Mark.GOOD: "✓", Mark.NOTE: "!", Mark.WRONG: "✗"}
#: Column at which the text of a line begins.
_INDENT = 15


def doctor(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Data folder of the farm.")] = Path(".farm"),
    host: Annotated[str | None, typer.Option(help="Address of the API. Default: that of the running farm.")] = None,
    port: Annotated[int | None, typer.Option(help="Port of the API. Default: that of the running farm.")] = None,
    tls_cert: Annotated[Path | None, typer.Option("--tls-cert", help="TLS certificate to check.")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key", help="Its private key.")] = None,
    digests: Annotated[
        bool, typer.Option("--digests", help="Compare the SHA-256 of all weights; takes minutes.")
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print the findings as JSON.")] = False,
) -> None:
    """Check the installation and say how to fix problems.

    The exit status is 1 if anything is wrong.
    """
    settings, problems = read()
    found = []
    examination = Examination(settings, problems, data_dir=data_dir, host=host, port=port, tls=(tls_cert, tls_key))
    for finding in _findings(settings, examination, digests):
        found.append(finding)
        if not as_json:
            for text in line(finding).split("\n"):
                say(text)
    healthy = all(finding.mark is not Mark.WRONG for finding in found)
    if as_json:
        say_json({"healthy": healthy, "findings": [asdict(finding) for finding in found]})
    if not healthy:
        raise typer.Exit(1)


def line(finding: Finding) -> str:
    """Return a finding as text, wrapped if the output is a terminal."""
    head = f"{_SIGNS[finding.mark]} {finding.name}".ljust(_INDENT)
    remedy = f"\n{_wrapped('→ ' + printable(finding.remedy), ' ' * _INDENT)}" if finding.remedy else ""
    return _wrapped(printable(finding.text), head) + remedy


def _wrapped(text: str, head: str) -> str:
    if not sys.stdout.isatty():
        return head + text
    width = shutil.get_terminal_size().columns
    return textwrap.fill(text, width, initial_indent=head, subsequent_indent=" " * _INDENT, break_on_hyphens=False)


def _findings(settings: Settings, examination: Examination, digests: bool) -> Iterator[Finding]:
    yield from examination.findings()
    if not digests:
        return
    columns = (TextColumn("reading the weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = sum(file.path.stat().st_size for file in weights.files_of(settings) if file.path.is_file())
        task = progress.add_task("", total=total)
        yield from weights.digests(settings, lambda count: progress.advance(task, count))
