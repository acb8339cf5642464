"""`farm weights convert`: make a smaller file of SRPO's transformer, once."""

from __future__ import annotations

import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Literal

import typer

from farm.domain.errors import ConfigurationError
from farm.process import child
from farm.settings import load


def convert(
    file: Annotated[Path | None, typer.Argument(help="File of a transformer. Default: FARM_SRPO_FILE.")] = None,
    to: Annotated[Literal["bf16", "fp8"], typer.Option(help="Number format of the new file.")] = "bf16",
    out: Annotated[Path | None, typer.Option(help="The new file. Default: beside the old one.")] = None,
) -> None:
    """Convert SRPO's transformer to bf16 or fp8.

    Its 47.6 GB in fp32 become 23.8 GB or 15.2 GB. A conversion
    that was interrupted continues where it stopped. A manifest with the
    digests of both files is written beside the new one.
    """
    source = file or load().srpo_file
    if source is None:
        raise ConfigurationError("No file to convert; name one, or set FARM_SRPO_FILE")
    target = out or source.with_name(f"{source.stem}.{to}.safetensors")
    if target.exists():
        raise ConfigurationError(
            f"{target} exists; check it with `farm weights verify {target}`, or choose another --out"
        )
    if find_spec("torch") is None:
        raise ConfigurationError("torch is not installed; pip install 'srpo-farm[worker]'")
    os.execv(sys.executable, child.module("workers.pipelines.convert", str(source), str(target), to))
