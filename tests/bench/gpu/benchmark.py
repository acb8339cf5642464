"""The benchmark: what is measured, in which order, and the tables."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property

import torch
from torch._dynamo import config

from farm.cli.terminal import show_table
from farm.domain.catalogue import COMMON_SIZES, SIZE_PRESETS, Acceleration, Weights
from farm.settings import Settings, environment
from tests.bench.gpu.floor import Work, fp8_rate_of, rate_of, work_of
from tests.bench.gpu.forwards import COLUMNS, compared
from tests.bench.gpu.networks import FLUX_DEV, TINY, Dimensions, in_fp8, random_network, twin
from tests.bench.gpu.timing import Case, Measured, Renderer, diffusers_renderer, farm_renderer, measured
from workers.pipelines.device import choose_device, device_name, number_format
from workers.pipelines.engine import FluxPipeline, keep_to_this_machine
from workers.pipelines.execution import Execution, is_compiled
from workers.pipelines.flux import FluxModels
from workers.pipelines.fp8 import multiplies_in_fp8
from workers.pipelines.network import Network
from workers.pipelines.sharing import EXACT, SHARED, Sharing
from workers.process import load_pipeline

LEVELS: tuple[Acceleration, ...] = ("none", "regular", "high")
_EAGER, _COMPILED, _FARM = "diffusers", "diffusers, compiled", "farm"
_COLUMNS = ("renderer", "format", "level", "size", "images", "full steps", "s/image", "p90", "ms/full step")
_RATIOS = ("TFLOP/s", "floor, s", "x floor", "x diffusers", "x compiled", "peak, GiB")


@dataclass(frozen=True, slots=True)
class Plan:
    """Case of a benchmark: a network's dimensions, sizes of images, how many images at once, and denoising steps."""

    dimensions: Dimensions
    sizes: Sequence[tuple[int, int]]
    images: Sequence[int]
    steps: int


#: Of the presets, one of each number of tokens; and the size of AI/ML API's example.
FULL_PLAN = Plan(
    FLUX_DEV,
    sizes=[
        *(SIZE_PRESETS[name] for name in ("landscape_4_3", "square_hd", "square", "landscape_16_9")),
        *(size for size in COMMON_SIZES if size == (1440, 512)),
    ],
    images=(1, 4),
    steps=28,
)
_QUICK_SIZES = [SIZE_PRESETS[name] for name in ("landscape_4_3", "square")]
TINY_PLAN = Plan(TINY, sizes=[(96, 64)], images=(1, 2), steps=8)


@dataclass(frozen=True, slots=True)
class Row:
    """A row of the table: who rendered, in which number format, and what was measured."""

    renderer: str
    number_format: str
    measured: Measured


@dataclass
class Benchmark:
    """One run of the benchmark."""

    settings: Settings
    tiny: bool = False
    quick: bool = False
    _rows: list[Row] = field(default_factory=list)

    @cached_property
    def _plan(self) -> Plan:
        if self.tiny:
            return TINY_PLAN
        return replace(FULL_PLAN, sizes=_QUICK_SIZES) if self.quick else FULL_PLAN

    @cached_property
    def _device(self) -> torch.device:
        return choose_device(self.settings.device)

    @property
    def _format(self) -> torch.dtype:
        return number_format(self._device)

    @cached_property
    def _is_compiled(self) -> bool:
        return is_compiled(self.settings.compile, self._device)

    def run(self) -> None:
        """Measure everything, and print it."""
        print(self._description())
        if self._is_compiled:
            self._compare_starts()
        parts = self._network()
        for renderer, number_format_name, render, levels in self._renderers(parts):
            for case in self._cases(levels):
                self._rows.append(Row(renderer, number_format_name, measured(render, case, self._device)))
        self._print_rows()
        self._compare_forwards(parts)

    def start_cold(self) -> None:
        """Load and warm up as a worker does, and print the seconds of both."""
        began = time.perf_counter()
        parts = self._network()
        loaded = time.perf_counter()
        self._models(parts).warm_up()
        print(json.dumps({"load": loaded - began, "warm-up": time.perf_counter() - loaded}))

    def _network(self) -> FluxPipeline:
        """Return the real network that is set; without one, and a tiny one in any case, of random weights."""
        keep_to_this_machine()
        if self.tiny or not self.settings.has_real_weights:
            return random_network(self._plan.dimensions, self._device, self._format)
        plain = {"pipeline": "flux", "compile": "off", "quantize": "none", "offload": "none"}
        models = load_pipeline(self.settings.model_copy(update=plain))
        assert isinstance(models, FluxModels)
        return models._networks["srpo"]._parts

    def _models(self, parts: FluxPipeline, sharing: Sharing = EXACT) -> FluxModels:
        """Return the farm's pipeline, prepared as a worker prepares it."""
        execution = Execution(self.settings.attention, "on" if self._is_compiled else "off")
        prepared = execution.prepare({Weights.SRPO: parts}, self._device, self._format)
        network = {Weights.SRPO: Network(parts)}
        return FluxModels(network, weights="", build="", warm_ups=prepared.warm_ups, sharing=sharing)

    def _renderers(self, parts: FluxPipeline) -> Iterator[tuple[str, str, Renderer, Sequence[Acceleration]]]:
        """Yield each renderer, its number format, and the levels that it has; one at a time is in memory."""
        name, tokens = str(self._format).removeprefix("torch."), self._plan.dimensions.tokens
        yield _EAGER, name, diffusers_renderer(twin(parts), tokens, self._device), LEVELS[:1]
        if self._is_compiled:
            yield _COMPILED, name, diffusers_renderer(compiled(twin(parts)), tokens, self._device), LEVELS[:1]
        yield _FARM, name, farm_renderer(self._models(twin(parts))), LEVELS
        yield _FARM, "fp8", farm_renderer(self._models(in_fp8(parts, self._device))), LEVELS

    def _cases(self, levels: Sequence[Acceleration]) -> Iterator[Case]:
        for size in self._plan.sizes:
            for images in self._plan.images:
                for level in levels:
                    yield Case(size, images, self._plan.steps, level)

    def _description(self) -> str:
        real = self.settings.has_real_weights and not self.tiny
        weights = "real" if real else f"random, of the size of {'a toy' if self.tiny else 'FLUX.1-dev'}"
        in_fp8_units = multiplies_in_fp8(self._device)
        return "\n".join(
            [
                f"device   {device_name(self._device)}",
                f"torch    {torch.__version__}, CUDA {torch.version.cuda}",
                f"weights  {weights}; images are timed here, not judged",
                f"farm     {'compiled' if self._is_compiled else 'not compiled'}, attention {self.settings.attention}",
                f"fp8      {'multiplied by the device' if in_fp8_units else 'of the weights only'}",
                "floor    operations of the image by the rate of a large product, which was measured first",
            ]
        )

    def _compare_starts(self) -> None:
        """Print the seconds of a start without kernels on disk, and of the next one, which finds them."""
        program = [sys.executable, "-m", "tests.bench.gpu", "--cold-start", *(["--tiny"] if self.tiny else [])]
        with tempfile.TemporaryDirectory(prefix="bench-kernels-") as folder:
            variables = environment(TORCHINDUCTOR_CACHE_DIR=folder)
            runs = [
                json.loads(subprocess.run(program, env=variables, capture_output=True, text=True, check=True).stdout)
                for _ in range(2)
            ]
        rows = [
            (what, *(f"{seconds:.1f}" for seconds in run.values()))
            for what, run in zip(("no kernels on disk", "kernels kept"), runs, strict=True)
        ]
        show_table(("start with", "load, s", "warm-up, s"), rows)

    def _compare_forwards(self, parts: FluxPipeline) -> None:
        """Print what a shared forward gains at each size, and how far its images are from those computed alone."""
        exact, shared = (self._models(twin(parts), sharing) for sharing in (EXACT, SHARED))
        cases = [Case(size, self._plan.images[-1], self._plan.steps) for size in self._plan.sizes]
        show_table(COLUMNS, [compared(exact, shared, case).cells() for case in cases])

    def _print_rows(self) -> None:
        rates = {row.number_format: self._rate(row.number_format) for row in self._rows}
        works = {size: work_of(self._plan.dimensions, size) for size in self._plan.sizes}
        print("rates    " + ", ".join(f"{name} {rate / 1e12:.3g} TFLOP/s" for name, rate in rates.items()))
        show_table((*_COLUMNS, *_RATIOS), [self._cells(row, works, rates) for row in self._rows])

    def _rate(self, name: str) -> float:
        in_units = name == "fp8" and multiplies_in_fp8(self._device)
        return fp8_rate_of(self._device) if in_units else rate_of(self._device, self._format)

    def _cells(self, row: Row, works: Mapping[tuple[int, int], Work], rates: Mapping[str, float]) -> tuple[object, ...]:
        found, case, work = row.measured, row.measured.case, works[row.measured.case.size]
        rest_rate = rates[str(self._format).removeprefix("torch.")]
        floor = work.seconds(found.full_steps, rate=rates[row.number_format], rest_rate=rest_rate)
        return (
            *(row.renderer, row.number_format, case.level, f"{case.size[0]}x{case.size[1]}", case.images),
            f"{found.full_steps:.0f}",
            f"{found.seconds:.3f}",
            f"{found.p90:.3f}",
            f"{found.full_step_ms:.1f}" if row.renderer == _FARM else "",
            f"{work.operations(found.full_steps) / found.seconds / 1e12:.3g}",
            f"{floor:.3f}",
            f"{found.seconds / floor:.2f}",
            *(self._beside(found, other) for other in (_EAGER, _COMPILED)),
            f"{found.peak:.1f}" if found.peak else "",
        )

    def _beside(self, found: Measured, renderer: str) -> str:
        """Return the time beside that of the other renderer for the same images at full computation."""
        same = (found.case.size, found.case.images)
        others = [row.measured for row in self._rows if row.renderer == renderer]
        return next((f"{found.seconds / o.seconds:.2f}" for o in others if (o.case.size, o.case.images) == same), "")


def compiled(parts: FluxPipeline) -> FluxPipeline:
    """Return diffusers' pipeline, compiled as its documentation recommends, for each size of its own."""
    config.recompile_limit = config.accumulated_recompile_limit = 1024
    parts.transformer.compile_repeated_blocks(fullgraph=True, dynamic=False)
    parts.vae.decode = torch.compile(parts.vae.decode, fullgraph=True, dynamic=False)
    return parts
