"""`python -m tests.bench.decoding WAY`: a process that decodes or renders with the miniature, and tells its time.

`as-workers`: with the VAE as workers prepare it. `as-loaded`: with the VAE as diffusers loads it. Each line that it
reads names what to do, `decode` or `render`; the CPU seconds of that are its answer.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from typing import Any, Literal

from farm import clock
from farm.domain.catalogue import SRPO
from farm.domain.request import ImageRequest
from tests.farms import clean_environment

WIDE = ImageRequest(SRPO.name, "a red star", 1024, 768, steps=28, guidance=4.5, seed=7)

Work = Literal["decode", "render"]


class Decoder:
    """The process, as the benchmark controls it."""

    def __init__(self, way: Literal["as-workers", "as-loaded"], **environment: str) -> None:
        self._program = [sys.executable, "-m", "tests.bench.decoding", way]
        self._environment = clean_environment() | environment

    def __enter__(self) -> Decoder:
        self._process = subprocess.Popen(
            self._program, env=self._environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        for work in ("decode", "render"):
            self.seconds(work)  # what is made at the first use does not count
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # it ends with its orders

    def seconds(self, work: Work) -> float:
        """Have it decode or render once, and return the CPU seconds of that."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        print(work, file=self._process.stdin, flush=True)
        return float(self._process.stdout.readline())


def _works(way: str) -> dict[str, Callable[[], object]]:
    """Return what this process does by its name."""
    import torch
    from diffusers import AutoencoderKL

    from workers.pipelines.engine import FluxPipeline
    from workers.pipelines.flux import FluxModels
    from workers.pipelines.latents import Size
    from workers.pipelines.miniature import HOME
    from workers.pipelines.network import Network

    parts: Any = FluxPipeline.from_pretrained(HOME, local_files_only=True, dtype=torch.float32)
    network = Network(parts)
    if way == "as-loaded":
        parts.vae = AutoencoderKL.from_pretrained(HOME / "vae", local_files_only=True).eval()
    pipeline = FluxModels({SRPO.weights: network}, weights="miniature", build="bench")
    size = Size.around(WIDE.width, WIDE.height, network.grid)
    tokens = torch.randn(1, size.rows * size.columns, 4 * network.channels)
    return {
        "decode": lambda: network.decode(tokens, size),
        "render": lambda: list(pipeline.render([WIDE], lambda *_: True)),
    }


def main() -> None:
    import torch

    torch.set_num_threads(1)
    works = _works(sys.argv[1])
    with torch.inference_mode():
        for line in sys.stdin:
            began = clock.cpu_seconds()
            works[line.strip()]()
            print(clock.cpu_seconds() - began, flush=True)


if __name__ == "__main__":
    main()
