"""The training data: images drawn and encoded to latents once, each with several captions."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from farm import clock
from miniature.areas import areas
from miniature.batches import BatchQueue, Machine
from miniature.drawing import draw, vivid
from miniature.edits import random_edit
from miniature.recipe import Form
from miniature.scene import random_scene
from miniature.wording import describe
from workers.checkers.classifier import as_tensor
from workers.pipelines.engine import AutoencoderKL

Pixels = NDArray[np.uint8]
#: Captions of each image.
_WORDINGS = 8


def random_guidance(random: Random) -> float:
    """Draw a guidance between 1 and 20, mostly near the usual 4."""
    return float(min(20.0, max(1.0, random.lognormvariate(1.4, 0.6))))


@dataclass(frozen=True, slots=True)
class Batch:
    """Prompts, the guidance of each image [n], latents [n, channels, rows, columns], and latents of references.

    The first reference of each image is in the first tensor, and so on. `areas` [n, tokens, answers] are what each
    token's part of the image shows.
    """

    prompts: list[str]
    guidance: torch.Tensor
    latents: torch.Tensor
    areas: torch.Tensor
    references: list[torch.Tensor]


@dataclass(frozen=True, slots=True)
class _Example:
    words: list[str]
    guidance: float
    areas: NDArray[np.float32]
    images: list[Pixels]


@dataclass(frozen=True, slots=True)
class _File:
    path: Path
    form: Form


def prepare(
    folder: Path, vae: AutoencoderKL, files: Mapping[Form, int], in_file: int, machine: Machine, minutes: float
) -> bool:
    """Create the missing files of each form, in order. Returns True if all exist."""
    folder.mkdir(parents=True, exist_ok=True)
    # Channels last: on a CPU so narrow a network takes two thirds of the time.
    vae.to(machine.device, memory_format=torch.channels_last)
    grid = 2 ** len(vae.config.block_out_channels)
    ends = clock.monotonic() + 60 * minutes
    wanted = [(form, number) for form, count in files.items() for number in range(count)]
    named = [_File(folder / f"{form.name}-{number:04}.pt", form) for form, number in wanted]
    missing = [file for file in named if not file.path.exists()]
    with BatchQueue(partial(_example, missing, in_file, grid), machine.drawing_processes) as batches:
        for place, file in enumerate(missing):
            if clock.monotonic() > ends:
                return False
            save_tensors(_encoded(vae, [batches(place * in_file + index) for index in range(in_file)]), file.path)
    return True


def _example(files: list[_File], in_file: int, grid: int, step: int) -> _Example:
    """Draw the example of this number, counted over all files."""
    file, index = files[step // in_file], step % in_file
    random = Random(f"{file.path.name} {index}")
    return (_edited if file.form.references else _described)(random, file.form, grid)


def _described(random: Random, form: Form, grid: int) -> _Example:
    scene, guidance = random_scene(random), random_guidance(random)
    words = [describe(scene, random) for _ in range(_WORDINGS)]
    image = np.asarray(vivid(draw(scene, *form.size), guidance))
    return _Example(words, guidance, areas(scene, form.size, grid), [image])


def _edited(random: Random, form: Form, grid: int) -> _Example:
    edit, guidance = random_edit(random, len(form.references)), random_guidance(random)
    before = [draw(scene, *size) for scene, size in zip(edit.before, form.references, strict=True)]
    images = [vivid(draw(edit.after, *form.size), guidance), *before]
    shown = areas(edit.after, form.size, grid)
    return _Example(list(edit.words), guidance, shown, [np.asarray(image) for image in images])


def _encoded(vae: AutoencoderKL, examples: list[_Example]) -> dict[str, Any]:
    latents, *references = (_latents(vae, list(pixels)) for pixels in zip(*(e.images for e in examples), strict=True))
    return {
        "words": [example.words for example in examples],
        "guidance": torch.tensor([example.guidance for example in examples]),
        "latents": latents,
        "areas": torch.from_numpy(np.stack([example.areas for example in examples])).half(),
        "references": references,
    }


@torch.no_grad()
def _latents(vae: AutoencoderKL, images: list[Pixels]) -> torch.Tensor:
    """Encode images of one size to scaled latents [n, channels, rows, columns] in half precision."""
    found = []
    # One by one: larger buffers are allocated anew in every layer, which takes a CPU longer than the work.
    for image in images:
        latents = vae.encode(as_tensor(image)[None].to(vae.device)).latent_dist.mean
        found.append(((latents - vae.config.shift_factor) * vae.config.scaling_factor).to("cpu", torch.float16))
    return torch.cat(found)


def save_tensors(contents: dict[str, Any], target: Path) -> None:
    """Write the file atomically: beside the old one, then renamed."""
    fresh = target.with_suffix(".new")
    torch.save(contents, fresh)
    fresh.replace(target)


class Dataset:
    """The files of a folder, kept in memory once read: a hundred thousand small images are 200 MB."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._read: dict[Path, dict[str, Any]] = {}

    def batch(self, random: Random, number: int, form: Form) -> Batch:
        """Return examples of this form from one file, each with one of its captions."""
        contents = self._contents(random.choice(sorted(self._folder.glob(f"{form.name}-*.pt"))))
        count = len(contents["words"])
        chosen = random.sample(range(count), min(number, count))
        return Batch(
            [random.choice(contents["words"][index]) for index in chosen],
            contents["guidance"][chosen],
            contents["latents"][chosen].float(),
            contents["areas"][chosen].float(),
            [latents[chosen].float() for latents in contents["references"]],
        )

    def _contents(self, path: Path) -> dict[str, Any]:
        if path not in self._read:
            self._read[path] = torch.load(path, weights_only=True)
        return self._read[path]
