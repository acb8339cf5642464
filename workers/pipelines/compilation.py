"""Compilation with torch.compile: of the transformer's blocks and the VAE's decoder, for the usual sizes.

The same request must get the same kernels on every worker, whatever each has rendered before. So every size is compiled
for itself, without dynamic shapes, and no kernel is chosen by timing. A size that is not among the usual ones of the
catalogue always runs uncompiled, however often it comes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from torch._dynamo import callback, config
from torch._inductor import config as inductor

from farm.domain.catalogue import Weights, usual_sizes
from workers.pipelines.engine import FluxPipeline
from workers.pipelines.latents import Size

Forward = Callable[..., Any]

#: Compiled variants of one function that torch keeps: more than all sizes, batches and number formats make.
_MAX_VARIANTS = 1024
#: Of each kind of block, so many are different: the first one reads tensors of another memory layout.
DISTINCT_BLOCKS = 2


@dataclass(frozen=True, slots=True)
class CompiledSizes:
    """The sizes that are compiled: tokens per image in the transformer, rows and columns of latents in the VAE."""

    token_counts: frozenset[int]
    latents: frozenset[tuple[int, int]]

    def __str__(self) -> str:
        return f"{sorted(self.token_counts)} {sorted(self.latents)}"

    @classmethod
    def of(cls, weights: Iterable[Weights], grid: int) -> CompiledSizes:
        """Return the usual sizes of all these weights; Kontext reads an input of as many tokens, too."""
        sizes = {name: [Size.around(*size, grid) for size in usual_sizes(name)] for name in weights}
        counts = {name: {size.rows * size.columns for size in found} for name, found in sizes.items()}
        with_input = {2 * count for count in counts.get(Weights.KONTEXT, ())}
        latents = {(2 * size.rows, 2 * size.columns) for found in sizes.values() for size in found}
        return cls(frozenset(with_input.union(*counts.values())), frozenset(latents))


class CompiledForward:
    """A module's forward, compiled for inputs of known shapes and as it is for others."""

    def __init__(self, plain: Forward, compiled: Forward, is_known: Callable[[torch.Size], bool]) -> None:
        self._plain = plain
        self._compiled = compiled
        self._is_known = is_known

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        first = args[0] if args else kwargs["hidden_states"]
        return (self._compiled if self._is_known(first.shape) else self._plain)(*args, **kwargs)


def whole(forward: Forward, backend: str = "inductor") -> Forward:
    """Return a forward that is compiled when it is called: as one graph, with no kernel chosen by measured time."""
    # Versions of torch without this option choose only kernels by time that compute the same bits.
    options: dict[str, Any] = {"deterministic": True} if hasattr(inductor, "deterministic") else {}
    compiled: Forward = torch.compile(
        forward, fullgraph=True, dynamic=False, backend=backend, options=options if backend == "inductor" else None
    )
    return compiled


def compile_network(parts: FluxPipeline, sizes: CompiledSizes, compiler: Callable[[Forward], Forward] = whole) -> None:
    """Have the network's blocks and decoder compiled when each size comes first. Parts may be shared by networks."""
    config.recompile_limit = config.accumulated_recompile_limit = _MAX_VARIANTS
    for block in (*parts.transformer.transformer_blocks, *parts.transformer.single_transformer_blocks):
        _compile(block, lambda shape: shape[1] in sizes.token_counts, compiler)
    _compile(parts.vae.decoder, lambda shape: tuple(shape[2:]) in sizes.latents, compiler)


def _compile(module: nn.Module, is_known: Callable[[torch.Size], bool], compiler: Callable[[Forward], Forward]) -> None:
    if not isinstance(module.forward, CompiledForward):
        module.forward = CompiledForward(module.forward, compiler(module.forward), is_known)


class CompilationActivity:
    """A flag: torch is compiling something in this process."""

    def __init__(self) -> None:
        self._is_compiling = False
        callback.on_compile_start(self._begin)
        callback.on_compile_end(self._end)

    def is_compiling(self) -> bool:
        return self._is_compiling

    def _begin(self, *_: object) -> None:
        self._is_compiling = True

    def _end(self, *_: object) -> None:
        self._is_compiling = False
