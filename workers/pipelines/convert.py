"""`python -m workers.pipelines.convert`: rewrite a transformer's file in bf16 or fp8, tensor by tensor.

Tensors are written in the order in which the source has them, so that a run that was killed goes on where it stopped.
No more than one of them is in memory.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from io import BufferedRandom, BufferedReader
from itertools import accumulate
from math import prod
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn

from farm import __version__
from farm.domain.errors import ConfigurationError, FarmError, with_detail
from farm.printable import say
from farm.process.child import EXIT_CONFIG
from farm.weights.checkpoints import FLOATS, SRPO_REMEDY, misfit, transformer_problems
from farm.weights.footprint import tensors_of
from farm.weights.fp8 import FP8_FORMAT, may_be_fp8, scale_of
from farm.weights.manifest import Manifest
from farm.weights.memory_plan import gigabytes
from farm.weights.tensor_files import TensorEntry
from workers.pipelines.fingerprint import file_digest
from workers.pipelines.fp8 import fp8_entries

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16}
_BYTES = {"F32": 4, "BF16": 2, FP8_FORMAT: 1}
_PIECE = 2**24

#: Called with a number of bytes of the source that were read.
Advance = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class WrittenTensor:
    """A tensor of the new file: its name, its number format as safetensors names it, and its shape."""

    name: str
    number_format: str
    shape: tuple[int, ...]

    @property
    def bytes(self) -> int:
        return prod(self.shape) * _BYTES[self.number_format]


class HashedFile:
    """A file that is read or written from its start to its end, with the SHA-256 of what was."""

    def __init__(self, file: BufferedReader | BufferedRandom) -> None:
        self._file = file
        self._digest = hashlib.sha256()
        self.position = 0

    @property
    def sha256(self) -> str:
        return self._digest.hexdigest()

    def read(self, count: int) -> bytearray:
        data = bytearray(count)
        if self._file.readinto(data) != count:
            raise OSError("a file ended early")
        self._add(data)
        return data

    def read_up_to(self, position: int) -> Iterator[int]:
        """Read for the digest alone; yield the size of each piece."""
        while self.position < position:
            yield len(self.read(min(_PIECE, position - self.position)))

    def write(self, data: bytes | memoryview) -> None:
        self._file.write(data)
        self._add(data)

    def _add(self, data: bytes | bytearray | memoryview) -> None:
        self._digest.update(data)
        self.position += len(data)


@dataclass(frozen=True, slots=True)
class Layout:
    """The new file: its header, and after each tensor of the source the tensors that are made of it, and their end."""

    names: tuple[str, ...]
    header: bytes
    ends: tuple[int, ...]

    @classmethod
    def of(cls, source: Mapping[str, TensorEntry], number_format: str) -> Layout:
        groups = [written_for(name, entry, number_format) for name, entry in source.items()]
        header = _header([tensor for group in groups for tensor in group])
        sizes = (sum(tensor.bytes for tensor in group) for group in groups)
        return cls(tuple(source), header, tuple(accumulate(sizes, initial=len(header))))

    def whole_tensors(self, path: Path) -> int:
        """Return how many tensors of the source a file that was not finished holds; -1 if not even the header."""
        if not path.is_file():
            return -1
        with path.open("rb") as file:
            if file.read(len(self.header)) != self.header:
                return -1
        size = path.stat().st_size
        return sum(end <= size for end in self.ends) - 1


def convert(source: Path, target: Path, number_format: str, advance: Advance) -> Manifest:
    """Write the source's tensors to `target` in `bf16` or `fp8`, and the manifest beside it, which is returned."""
    tensors = tensors_in_order(source)
    layout = Layout.of(tensors, number_format)
    partial = _partial(source, target, number_format)
    done = layout.whole_tensors(partial)
    _refuse_full_disk(partial, layout.ends[-1] - layout.ends[max(done, 0)])
    with source.open("rb") as readable, partial.open("r+b" if done >= 0 else "w+b") as writable:
        read, written = HashedFile(readable), HashedFile(writable)
        _go_on(read, written, tensors, layout, done, advance)
        for name in layout.names[max(done, 0) :]:
            _convert_tensor(name, tensors[name], number_format, read, written)
            advance(tensors[name].end - tensors[name].begin)
        writable.truncate()
        writable.flush()
        os.fsync(writable.fileno())
    manifest = Manifest(
        bytes=written.position,
        sha256=written.sha256,
        number_format=number_format,
        source=source.name,
        source_bytes=read.position,
        source_sha256=read.sha256,
        version=__version__,
    )
    manifest.write(target)
    partial.replace(target)
    return manifest


def _go_on(
    read: HashedFile,
    written: HashedFile,
    tensors: Mapping[str, TensorEntry],
    layout: Layout,
    done: int,
    advance: Advance,
) -> None:
    """Bring both files to the first tensor that was not converted yet."""
    if done < 0:
        written.write(layout.header)
    for _ in written.read_up_to(layout.ends[max(done, 0)]):
        pass
    for count in read.read_up_to(_first_byte(tensors, max(done, 0))):
        advance(count)


def _first_byte(tensors: Mapping[str, TensorEntry], number: int) -> int:
    """Return where the tensor of this number begins in the source, or where the last one ends."""
    entries = list(tensors.values())
    return entries[number].begin if number < len(entries) else entries[-1].end


def _convert_tensor(name: str, entry: TensorEntry, number_format: str, read: HashedFile, written: HashedFile) -> None:
    values = torch.frombuffer(read.read(entry.end - entry.begin), dtype=_DTYPES[entry.number_format])
    for tensor in _converted(name, values.reshape(entry.shape), number_format).values():
        written.write(tensor.contiguous().reshape(-1).view(torch.uint8).numpy().data)


def _converted(name: str, values: torch.Tensor, number_format: str) -> dict[str, torch.Tensor]:
    if number_format == "fp8" and may_be_fp8(name, values.dim()):
        return fp8_entries(name, values)
    return {name: values.to(torch.bfloat16)}


def written_for(name: str, entry: TensorEntry, number_format: str) -> list[WrittenTensor]:
    """Return what is written for a tensor of the source."""
    if number_format == "fp8" and may_be_fp8(name, len(entry.shape)):
        scales = WrittenTensor(scale_of(name), "F32", (entry.shape[0], 1))
        return [WrittenTensor(name, FP8_FORMAT, entry.shape), scales]
    return [WrittenTensor(name, "BF16", entry.shape)]


def tensors_in_order(source: Path) -> dict[str, TensorEntry]:
    """Return the tensors of a file, in the file's order. Raises ConfigurationError if they are not a transformer's."""
    found = tensors_of(source)
    formats = {name: entry.number_format for name, entry in found.items()}
    problems = transformer_problems(formats, (1, 1))
    problems += [f"{name} is converted already" for name, kept in formats.items() if kept not in FLOATS]
    if problems:
        raise ConfigurationError(misfit(source, problems, SRPO_REMEDY))
    return dict(sorted(found.items(), key=lambda item: (item[1].begin, item[1].end)))


def _header(tensors: Sequence[WrittenTensor]) -> bytes:
    """Return the head of a safetensors file: the length of the description, and the description, in multiples of 8."""
    ends = accumulate(tensor.bytes for tensor in tensors)
    described: dict[str, object] = {
        tensor.name: {
            "dtype": tensor.number_format,
            "shape": tensor.shape,
            "data_offsets": (end - tensor.bytes, end),
        }
        for tensor, end in zip(tensors, ends, strict=True)
    }
    text = json.dumps({"__metadata__": {"format": "pt"}} | described, separators=(",", ":")).encode()
    padded = text.ljust(-(-len(text) // 8) * 8)
    return len(padded).to_bytes(8, "little") + padded


def _partial(source: Path, target: Path, number_format: str) -> Path:
    """Return where the new file is until it is finished: named after its source, so that another one begins anew."""
    return target.with_name(f".{target.name}.{file_digest(source)[:12]}-{number_format}.partial")


def _refuse_full_disk(partial: Path, wanted: int) -> None:
    free = shutil.disk_usage(partial.parent).free
    if free < wanted:
        raise ConfigurationError(
            f"{partial.parent} has {gigabytes(free)} free, and {gigabytes(wanted)} are to be written; free space "
            "there, or choose another file with --out"
        )


def main() -> None:
    """Convert as the command line says; the exit status is that of a configuration error if it cannot be done."""
    parser = argparse.ArgumentParser(prog="farm weights convert")
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("number_format", choices=("bf16", "fp8"))
    options = parser.parse_args()
    # Reading and the digests take most of the time; threads that wait for each other would take other programs'.
    torch.set_num_threads(1)
    columns = (TextColumn("converting"), BarColumn(), DownloadColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
            task = progress.add_task("", total=options.source.stat().st_size)
            manifest = convert(
                options.source, options.target, options.number_format, lambda count: progress.advance(task, count)
            )
    except (FarmError, OSError) as error:
        say(f"farm: {with_detail(error) if isinstance(error, FarmError) else error}", file=sys.stderr)
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigurationError) else 1)
    say(f"{options.target}: {gigabytes(manifest.bytes)}, sha256 {manifest.sha256}")


if __name__ == "__main__":
    main()
