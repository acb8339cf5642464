"""`python -m tests.unit.pipelines.many_renders`: a process that renders as a worker does, and tells its memory.

A finished image is encoded in another thread while the next one is rendered. It prints as JSON how many images it has
finished, the bytes that were allocated before them and after each part of them, the bytes of memory of its own at the
same times, and the most that it ever had, with the files that it maps, once it has rendered the largest images, too.
"""

from __future__ import annotations

import ctypes
import gc
import json
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from PIL import Image

from farm.domain.catalogue import MAX_PIXELS, MAX_SIDE
from farm.domain.request import Request
from workers.encode import Encoder
from workers.pipelines.flux import FluxModels
from workers.pipelines.loading import load_miniature
from workers.pipelines.pipeline import RenderedImage

INPUTS = {"grey": Image.new("RGB", (300, 200), "grey")}
#: Of the usual presets, the larger ones more rarely, and one off the grid.
SIZES = (*((256, 256), (512, 256), (257, 511)) * 8, (512, 512), (1024, 768))
LARGEST = ((MAX_SIDE, MAX_PIXELS // MAX_SIDE), (1664, 1664))
LEVELS = ("none", "regular", "high")
STEPS = 6


FROM_TEXT = Request(model="srpo", prompt="a red star", width=256, height=256, steps=STEPS, guidance=4.5, seed=1)
FROM_IMAGE = FROM_TEXT.model_copy(update={"model": "srpo-image-to-image", "strength": 0.9, "inputs": ("grey",)})


def request_of(number: int, width: int, height: int) -> Request:
    """Return the `number`-th request: of every level, and one in seven from an image."""
    own = {"prompt": f"a red star {number}", "width": width, "height": height, "seed": number}
    level = LEVELS[number % len(LEVELS)]
    return (FROM_TEXT if number % 7 else FROM_IMAGE).model_copy(update=own | {"acceleration": level})


class Process:
    """Renders requests, and encodes them beside."""

    def __init__(self) -> None:
        self._pipeline: FluxModels = load_miniature()
        self._encoder = Encoder(self._pipeline.weights, self._pipeline.build, with_prompt=True)

    def render(self, numbers: range, sizes: Sequence[tuple[int, int]]) -> int:
        """Render these requests, of the sizes in turn, and return how many images were finished."""
        finished = 0
        with ThreadPoolExecutor(1) as publishing:
            encoded = publishing.submit(self._encode, FROM_TEXT, [])
            for number in numbers:
                request = request_of(number, *sizes[number % len(sizes)])
                rendered = self._rendered(request, cancelled=number % 5 == 0)
                encoded.result()
                encoded = publishing.submit(self._encode, request, rendered)
                finished += len(rendered)
            encoded.result()
        return finished

    def _rendered(self, request: Request, *, cancelled: bool) -> Sequence[RenderedImage]:
        last = STEPS // 2 if cancelled else None
        return list(self._pipeline.render([request.image(0)], lambda _, step: step != last, INPUTS))

    def _encode(self, request: Request, rendered: Sequence[RenderedImage]) -> None:
        for each in rendered:
            self._encoder.encode(each.image, of=request, number=0, rendered=each)


class AllocatorState(ctypes.Structure):
    """State of the allocator as glibc tells it (mallinfo2(3)): ten numbers."""

    _fields_ = (("numbers", ctypes.c_size_t * 10),)


def allocated() -> int:
    """Return the bytes that are in use: the allocator keeps others, in which a leak would hide for long."""
    gc.collect()
    tell = ctypes.CDLL(None).mallinfo2
    tell.restype = AllocatorState
    numbers = tell().numbers
    mapped, in_heaps = numbers[4], numbers[7]
    return int(mapped + in_heaps)


def memory(name: str) -> int:
    """Return the bytes of this process's memory under this name in its status."""
    gc.collect()
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(dict(line.split(":", 1) for line in lines)[name].split()[0])


def main() -> None:
    warm_up, parts, renders = map(int, sys.argv[1:])
    process = Process()
    process.render(range(warm_up), SIZES)
    rendered, found = 0, [(allocated(), memory("RssAnon"))]
    for first in range(warm_up, warm_up + parts * renders, renders):
        rendered += process.render(range(first, first + renders), SIZES)
        found.append((allocated(), memory("RssAnon")))
    process.render(range(1, 1 + len(LARGEST)), LARGEST)
    in_use, own = zip(*found, strict=True)
    print(json.dumps({"rendered": rendered, "allocated": in_use, "memory": own, "most": memory("VmHWM")}))


if __name__ == "__main__":
    main()
