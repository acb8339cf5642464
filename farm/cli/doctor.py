"""`farm doctor`: check the installation, and print the command that fixes each problem."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from farm.cli.findings import say_finding
from farm.cli.terminal import say_json
from farm.cli.weights.verify import findings_of
from farm.doctor.examination import Examination
from farm.doctor.finding import Finding, Mark
from farm.doctor.weights import files_of
from farm.settings import Settings, read


def doctor(
    data_dir: Annotated[Path, typer.Option("--data-dir", help="Data folder of the farm.")] = Path(".farm"),
    host: Annotated[str | None, typer.Option(help="Address of the API. Default: that of the running farm.")] = None,
    port: Annotated[
        int | None, typer.Option(min=1, max=65535, help="Port of the API. Default: that of the running farm.")
    ] = None,
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
            say_finding(finding)
    healthy = all(finding.mark is not Mark.WRONG for finding in found)
    if as_json:
        say_json({"healthy": healthy, "findings": [asdict(finding) for finding in found]})
    if not healthy:
        raise typer.Exit(1)


def _findings(settings: Settings, examination: Examination, digests: bool) -> Iterator[Finding]:
    yield from examination.findings()
    if digests:
        yield from findings_of([file for file in files_of(settings) if file.path.is_file()])
