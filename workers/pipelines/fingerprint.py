"""The build digest: a fingerprint of everything besides the request that determines pixels."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path

import PIL
import torch

from workers.pipelines.device import device_name
from workers.pipelines.engine import versions

#: Our own code between the request and the image. A changed comment makes a new build too: rather once too often.
_CODE = sorted(
    {path.name for path in Path(__file__).parent.glob("*.py")} - {"convert.py", "language.py", "simulated.py"}
)
#: Files up to this size are read whole. In a larger one, this much from its start: a safetensors header is shorter.
_HEAD = 2**23
#: Places in a larger file that are read, evenly spaced, the last one at its end; and bytes read at each.
_SAMPLES = 256
_SAMPLE = 2**14


def build_digest(files: Mapping[str, Path], device: torch.device, number_format: torch.dtype, execution: str) -> str:
    """Return sixteen hex digits that differ where images may differ.

    `files`: what was loaded, under names that are the same on every machine. Large files are sampled, since 24 GB of
    weights take minutes to read: other weights are told apart, a flipped bit in them is not. `execution`: how networks
    are kept and computed.
    """
    facts = {
        "code": {name: file_digest(Path(__file__).with_name(name)) for name in _CODE},
        "device": device_name(device),
        "execution": execution,
        "files": {name: file_digest(path) for name, path in files.items()},
        "number_format": str(number_format),
        "threads": torch.get_num_threads(),
        # It resizes the images that jobs begin from.
        "pillow": PIL.__version__,
        # With the releases of the kernel libraries that torch was built with.
        "torch": [torch.__version__, torch.__config__.show()],
        "versions": versions(),
    }
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:16]


def file_digest(path: Path) -> str:
    """Return the digest of a large file's size and samples, or of all bytes of a smaller one."""
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        digest.update(file.read(_HEAD))
        for offset in _offsets(size):
            file.seek(offset)
            digest.update(file.read(_SAMPLE))
    return digest.hexdigest()


def _offsets(size: int) -> Iterator[int]:
    if size > _HEAD:
        yield from (_HEAD + (size - _HEAD - _SAMPLE) * n // (_SAMPLES - 1) for n in range(_SAMPLES))
