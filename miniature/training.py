"""Resumable training of a network: steps, checkpoints, loss curves."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from PIL import Image, ImageDraw
from torch import nn

from farm import clock
from farm.domain.errors import ConfigurationError

Network = TypeVar("Network", bound=nn.Module)
#: Seconds between two checkpoints.
_SAVE_EVERY = 120.0
_LOG_EVERY = 20


@dataclass(frozen=True, slots=True)
class Plan:
    """Steps and learning rate: `rate` after `warm_up` steps, falling to 0 over the last `cool_down` share."""

    steps: int
    rate: float
    warm_up: int = 100
    cool_down: float = 0.25
    #: Share of the old average that is kept in each step of the averaged weights.
    average: float = 0.995
    largest_gradient: float = 1.0

    def rate_at(self, step: int) -> float:
        rising = min(1.0, (step + 1) / self.warm_up)
        falling = min(1.0, (self.steps - step) / (self.cool_down * self.steps))
        return self.rate * rising * falling


#: The losses of one step's batch, by name; their sum is minimised.
Losses = Callable[[int], Mapping[str, torch.Tensor]]


class Training:
    """One network's training, in a folder of its own: `checkpoint.pt`, `log.jsonl`, `curves.png`."""

    def __init__(self, folder: Path, network: nn.Module, plan: Plan) -> None:
        """Resume from the folder's checkpoint if there is one."""
        folder.mkdir(parents=True, exist_ok=True)
        self._folder, self._network, self._plan = folder, network, plan
        weights = [weight for weight in network.parameters() if weight.requires_grad]
        self._optimizer = torch.optim.AdamW(weights, lr=plan.rate, betas=(0.9, 0.98), weight_decay=0.01, fused=True)
        self.averaged = {name: value.detach().clone() for name, value in network.state_dict().items()}
        self.step = 0
        if self._checkpoint.exists():
            self._resume()

    @property
    def _checkpoint(self) -> Path:
        return self._folder / "checkpoint.pt"

    @property
    def is_finished(self) -> bool:
        return self.step >= self._plan.steps

    def run(self, losses: Losses, minutes: float) -> bool:
        """Train until the plan is finished or the time is up; then save a checkpoint, and draw the curves.

        Says whether the plan is fulfilled.
        """
        begun = saved = clock.monotonic()
        sums: dict[str, float] = {}
        while not self.is_finished and clock.monotonic() - begun < 60 * minutes:
            for name, value in self.make_step(losses).items():
                sums[name] = sums.get(name, 0.0) + value / _LOG_EVERY
            if self.step % _LOG_EVERY == 0:
                self._log(sums, clock.monotonic() - begun)
                sums = {}
            if clock.monotonic() - saved > _SAVE_EVERY:
                self.save()
                saved = clock.monotonic()
        self.save()
        draw_curves(self._folder / "log.jsonl", self._folder / "curves.png")
        return self.is_finished

    def make_step(self, losses: Losses) -> dict[str, float]:
        """Train one step on the batch of its number; return its losses."""
        for group in self._optimizer.param_groups:
            group["lr"] = self._plan.rate_at(self.step)
        # A step's batch follows from its number: a training that was interrupted sees what another would have seen.
        torch.manual_seed(self.step)
        parts = losses(self.step)
        self._optimizer.zero_grad(set_to_none=True)
        torch.stack(list(parts.values())).sum().backward()  # type: ignore[no-untyped-call]
        nn.utils.clip_grad_norm_(self._network.parameters(), self._plan.largest_gradient)
        self._optimizer.step()
        self.step += 1
        self._average()
        return {name: float(value.detach()) for name, value in parts.items()}

    @torch.no_grad()
    def _average(self) -> None:
        # At first the average follows more closely: the start is soon forgotten.
        kept = min(self._plan.average, (1 + self.step) / (10 + self.step))
        for name, value in self._network.state_dict().items():
            if value.is_floating_point():
                self.averaged[name].lerp_(value, 1 - kept)

    def save(self) -> None:
        """Write the checkpoint atomically: beside the old one, then renamed."""
        state = {
            "step": self.step,
            "network": self._network.state_dict(),
            "averaged": self.averaged,
            "optimizer": self._optimizer.state_dict(),
        }
        fresh = self._checkpoint.with_suffix(".new")
        torch.save(state, fresh)
        fresh.replace(self._checkpoint)

    def _resume(self) -> None:
        device = next(self._network.parameters()).device
        state = torch.load(self._checkpoint, weights_only=True, map_location=device)
        self.step = state["step"]
        self._network.load_state_dict(state["network"])
        self._optimizer.load_state_dict(state["optimizer"])
        self.averaged = state["averaged"]

    def _log(self, sums: Mapping[str, float], seconds: float) -> None:
        line = {"step": self.step, "seconds": round(seconds, 1), **{name: round(sums[name], 5) for name in sums}}
        with (self._folder / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")


def averaged_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the averaged weights of the last checkpoint of a run: those that are evaluated and bundled.

    Raises ConfigurationError where there is none yet.
    """
    checkpoint = folder / "checkpoint.pt"
    if not checkpoint.exists():
        raise ConfigurationError(f"{checkpoint} is not there yet; make train-miniature makes it.")
    weights: dict[str, torch.Tensor] = torch.load(checkpoint, weights_only=True, map_location="cpu")["averaged"]
    return weights


def restored(network: Network, folder: Path) -> Network:
    """Load the averaged weights of a run into the network for inference."""
    network.load_state_dict(averaged_weights(folder))
    return network.requires_grad_(False).eval()


def draw_curves(log: Path, target: Path) -> None:
    """Plot each loss of a log over the steps, on logarithmic scales of their own, one below the other."""
    lines: list[dict[str, Any]] = (
        [json.loads(line) for line in log.read_text("utf-8").splitlines()] if log.exists() else []
    )
    if len(lines) < 2:
        return
    names = [name for name in lines[-1] if name not in ("step", "seconds")]
    width, height = 640, 160
    image = Image.new("RGB", (width, height * len(names)), "white")
    pen = ImageDraw.Draw(image)
    for row, name in enumerate(names):
        shown = [(line["step"], line[name]) for line in lines if line.get(name, 0) > 0]
        _draw_curve(pen, name, shown, (0, row * height, width, (row + 1) * height))
    image.save(target)


def _draw_curve(
    pen: ImageDraw.ImageDraw, name: str, shown: list[tuple[int, float]], box: tuple[int, int, int, int]
) -> None:
    left, top, right, bottom = box[0] + 10, box[1] + 24, box[2] - 10, box[3] - 10
    if not shown:
        return
    values = torch.tensor([value for _, value in shown]).log()
    low, high = float(values.min()), float(values.max())
    span, last = max(high - low, 1e-6), max(shown[-1][0], 1)
    points = [
        (left + (right - left) * step / last, bottom - (bottom - top) * (float(value) - low) / span)
        for (step, _), value in zip(shown, values, strict=True)
    ]
    pen.rectangle((left, top, right, bottom), outline=(210, 210, 210))
    pen.line(points, fill=(46, 104, 208), width=2)
    lowest = min(value for _, value in shown)
    pen.text((left, top - 16), f"{name}: last {shown[-1][1]:.4g}, lowest {lowest:.4g}, step {last}", fill="black")
