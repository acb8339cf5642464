"""Execution of networks: attention, compilation, the steps of each level, and how many images in one forward."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from importlib import metadata, util
from pathlib import Path

import torch

from farm.domain.acceleration import BUNDLED, Levels
from farm.domain.catalogue import Weights
from farm.domain.errors import ConfigurationError
from farm.process import toolchain
from farm.settings import AttentionName, CompileChoice, ForwardMode
from workers.pipelines.attention import use_attention
from workers.pipelines.compilation import CompiledSizes, compile_network
from workers.pipelines.engine import FluxPipeline
from workers.pipelines.network import Network
from workers.pipelines.pipeline import NO_WARM_UPS, WarmUps
from workers.pipelines.sharing import EXACT, SHARED, Sharing, kept, measured, where_it_pays
from workers.pipelines.warm_up import warm_ups_of

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Execution:
    """The settings of how networks are computed."""

    attention: AttentionName = "native"
    compile: CompileChoice = "auto"
    levels: Levels = BUNDLED
    forward: ForwardMode = "exact"
    #: Where it is kept at which sizes a shared forward pays; None: it is measured at each start.
    measurements: Path | None = None

    def prepare(
        self, networks: Mapping[Weights, FluxPipeline], device: torch.device, number_format: torch.dtype
    ) -> Prepared:
        """Prepare the networks to be computed so. Raises ConfigurationError if it cannot be done here."""
        for parts in networks.values():
            use_attention(parts.transformer, self.attention, device, number_format)
        facts = f"{self.attention}, {self.levels.table()}"
        if not is_compiled(self.compile, device):
            return Prepared(facts, NO_WARM_UPS)
        for parts in networks.values():
            sizes = CompiledSizes.of(networks, Network(parts).grid)
            compile_network(parts, sizes)
        return Prepared(f"{facts}, compiled by {_compiler()}: {sizes}", warm_ups_of(networks))

    def sharing(self, networks: Mapping[Weights, Network], build: str) -> Sharing:
        """Return which images of these networks share a forward; where it pays, it is measured once for each build."""
        if self.forward != "auto":
            return SHARED if self.forward == "shared" else EXACT
        if self.measurements is None:
            return where_it_pays(measured(networks))
        return where_it_pays(kept(self.measurements / f"{build}.json", partial(measured, networks)))


#: The execution without any settings.
DEFAULT = Execution()


@dataclass(frozen=True, slots=True)
class Prepared:
    """Networks that were prepared. `facts`: all of it that determines pixels."""

    facts: str
    warm_ups: WarmUps


def is_compiled(choice: CompileChoice, device: torch.device) -> bool:
    """Return True if networks on the device are compiled. Raises ConfigurationError if they must be and cannot."""
    if choice == "off" or (choice == "auto" and device.type != "cuda"):
        return False
    lacking = toolchain.missing("cuda" if device.type == "cuda" else "cpu")
    if lacking and choice == "on":
        raise ConfigurationError(f"FARM_COMPILE=on needs {lacking}")
    if lacking:
        log.warning("Models are not compiled, and slower than they could be: this machine lacks %s.", lacking)
    return lacking is None


def _compiler() -> str:
    return f"triton {metadata.version('triton')}" if util.find_spec("triton") else "torch"
