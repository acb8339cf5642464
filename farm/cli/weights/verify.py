"""`farm weights verify`: compare the digests of weight files with those on record."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from farm.cli.findings import say_finding
from farm.doctor import weights
from farm.doctor.finding import Finding, Mark
from farm.domain.errors import ConfigurationError
from farm.settings import load


def verify(
    files: Annotated[list[Path] | None, typer.Argument(help="Files to check. Default: those of the settings.")] = None,
) -> None:
    """Compare the digests of weight files with those on record.

    On record are those of the manifest, the downloader or the publisher.
    Reads all files, which takes minutes. The exit status is 1 if one is
    missing, cut off or differs.
    """
    wanted = [weights.WeightFile(path, "convert or download it again") for path in files or ()]
    wanted = wanted or weights.files_of(load())
    if not wanted:
        raise ConfigurationError("No weights to check; name files, or set FARM_FLUX_DIR and FARM_SRPO_FILE")
    found = list(findings_of(wanted))
    for finding in found:
        say_finding(finding)
    if any(finding.mark is Mark.WRONG for finding in found):
        raise typer.Exit(1)


def findings_of(files: Sequence[weights.WeightFile]) -> Iterator[Finding]:
    """Check files to the last byte, with a progress bar."""
    columns = (TextColumn("reading the weights"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        total = sum(file.path.stat().st_size for file in files if file.path.is_file())
        task = progress.add_task("", total=total)
        yield from weights.digests(files, lambda count: progress.advance(task, count))
