"""The network of a safety checker: loaded whole or not at all, and run on the CPU, or on the card where it has room."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import structlog
import torch
from PIL import Image
from safetensors import SafetensorError
from transformers import AutoImageProcessor

from farm.domain.errors import ConfigurationError
from farm.weights.checkpoints import some
from workers.pipelines.engine import keep_to_this_machine

#: Bytes that must stay free on a card for the images that are rendered beside a checker.
CARD_RESERVE = 8 * 10**9

_log = structlog.get_logger(__name__)


class CheckerNetwork:
    """Runs a network on one image at a time.

    On the CPU it has as many threads as torch in this process, however many threads publish images.
    """

    def __init__(self, model: Any, processor: Any, outputs: Callable[[torch.Tensor], torch.Tensor]) -> None:
        """`processor` makes the input of an image; `outputs` computes its output [1, n] with the model."""
        self._model = model.requires_grad_(False).eval()
        self._processor = processor
        self._outputs = outputs
        self._device = torch.device("cpu")
        self._lock = Lock()

    def use_card(self, device: torch.device) -> None:
        """Move to this device if it is a card with room for the network."""
        if device.type == "cuda" and _free_bytes(device) - self._model.get_memory_footprint() >= CARD_RESERVE:
            self._move(device)
        _log.info("the safety checker is loaded", device=str(self._device))

    def __call__(self, image: Image.Image) -> torch.Tensor:
        """Return the output [n] for an image. Raises ArithmeticError if a number of it is not finite."""
        with self._lock, torch.inference_mode():
            output = self._run(self._processor(images=image, return_tensors="pt")["pixel_values"])[0].float().cpu()
        if not output.isfinite().all():
            raise ArithmeticError("the safety checker's output is not finite")
        return output

    def _run(self, pixels: torch.Tensor) -> torch.Tensor:
        try:
            return self._outputs(pixels.to(self._device))
        except torch.OutOfMemoryError:
            _log.warning("the safety checker moves to the CPU: the card has no room for it")
            self._move(torch.device("cpu"))
            return self._outputs(pixels)

    def _move(self, device: torch.device) -> None:
        self._model.to(device)
        self._device = device


def _free_bytes(device: torch.device) -> int:
    """Return the memory that is free on a card, with what torch holds in reserve there."""
    free, _ = torch.cuda.mem_get_info(device)
    return free + torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)


def load_processor(folder: Path) -> Any:
    """Load what makes the input of an image. The same with and without torchvision, which would resize otherwise."""
    with _readable(folder):
        return AutoImageProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False, backend="pil")


def load_model(architecture: Any, folder: Path) -> Any:
    """Load a model of this class. Raises ConfigurationError unless its file has every tensor.

    transformers fills missing tensors with random numbers, with which a checker would let anything pass.
    """
    keep_to_this_machine()
    with _readable(folder):
        model, report = architecture.from_pretrained(
            folder,
            dtype=torch.float32,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
        )
    if missing := sorted(report["missing_keys"]):
        raise ConfigurationError(f"FARM_SAFETY_DIR={folder} has weights without {some(missing)}; download it again")
    return model


@contextmanager
def _readable(folder: Path) -> Iterator[None]:
    """Convert a library's exceptions, inside the block, to one line that names the folder."""
    try:
        yield
    except (OSError, ValueError, KeyError, TypeError, RuntimeError, ImportError, SafetensorError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ConfigurationError(f"FARM_SAFETY_DIR={folder} cannot be loaded: {reason}") from error
