"""Warm-up of compiled networks: each usual size is rendered once, so that no job waits for its kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from functools import partial

from PIL import Image
from torch import nn

from farm.domain.catalogue import KONTEXT, KONTEXT_TEXT, SRPO, Model, Weights, usual_sizes
from farm.domain.request import ImageRequest
from workers.pipelines.compilation import DISTINCT_BLOCKS, CompilationActivity
from workers.pipelines.engine import FluxPipeline
from workers.pipelines.flux import FluxModels
from workers.pipelines.network import Network
from workers.pipelines.pipeline import WarmUp, WarmUps

_MODELS: Mapping[Weights, tuple[Model, ...]] = {Weights.SRPO: (SRPO,), Weights.KONTEXT: (KONTEXT_TEXT, KONTEXT)}


def warm_ups_of(networks: Mapping[Weights, FluxPipeline]) -> WarmUps:
    """Return what compiles the networks: of each model its default size first, before the worker is ready."""
    models = FluxModels({name: Network(thin(parts)) for name, parts in networks.items()}, weights="", build="")
    renders = [list(_renders(models, name)) for name in networks]
    first, later = [each[0] for each in renders], [render for each in renders for render in each[1:]]
    return WarmUps(first, later, CompilationActivity().is_compiling)


def thin(parts: FluxPipeline) -> FluxPipeline:
    """Return the network with a few of its blocks: it compiles what the whole one does, and computes a fraction."""
    transformer = copy(parts.transformer)
    transformer._modules = dict(transformer._modules)
    for name in ("transformer_blocks", "single_transformer_blocks"):
        setattr(transformer, name, nn.ModuleList(list(getattr(transformer, name))[:DISTINCT_BLOCKS]))
    return FluxPipeline(**(parts.components | {"transformer": transformer}))


def _renders(models: FluxModels, weights: Weights) -> Iterator[WarmUp]:
    for width, height in usual_sizes(weights):
        for model in _MODELS[weights]:
            yield partial(_render, models, _request(model, width, height))


def _request(model: Model, width: int, height: int) -> ImageRequest:
    inputs = ("",) * model.min_inputs
    return ImageRequest(model.name, "warm up", width, height, 1, model.parameters.guidance.default, 0, inputs=inputs)


def _render(models: FluxModels, request: ImageRequest) -> None:
    inputs = {"": Image.new("RGB", (request.width, request.height))}
    for _ in models.render([request], lambda *_: True, inputs):
        pass
