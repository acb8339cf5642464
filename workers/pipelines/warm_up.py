"""Warm-up of compiled networks: each usual size is rendered once, so that no job waits for its kernels."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from copy import copy
from dataclasses import replace
from functools import partial
from typing import Any

from PIL import Image
from torch import nn

from farm.domain.catalogue import KONTEXT, KONTEXT_TEXT, SRPO, Model, Weights, usual_sizes
from farm.domain.request import ImageRequest
from workers.pipelines.compilation import DISTINCT_BLOCKS, CompilationActivity
from workers.pipelines.engine import FluxPipeline
from workers.pipelines.flux import FluxModels
from workers.pipelines.network import Network
from workers.pipelines.pipeline import NO_WARM_UPS, InputImages, WarmUp, WarmUps
from workers.pipelines.sharing import Sharing

_MODELS: Mapping[Weights, tuple[Model, ...]] = {Weights.SRPO: (SRPO,), Weights.KONTEXT: (KONTEXT_TEXT, KONTEXT)}


def warm_ups_of(networks: Mapping[Weights, FluxPipeline]) -> WarmUps:
    """Return what compiles the networks: of each model its default size first, before the worker is ready."""
    models = FluxModels({name: Network(thin(parts)) for name, parts in networks.items()}, weights="", build="")
    renders = [list(_renders(models, name)) for name in networks]
    first, later = [each[0] for each in renders], [render for each in renders for render in each[1:]]
    return WarmUps(first, later, CompilationActivity().is_compiling)


def with_shared_forwards(warm_ups: WarmUps, networks: Mapping[Weights, FluxPipeline], sharing: Sharing) -> WarmUps:
    """Return the warm-ups of compiled networks with those of forwards of several images, where images share one."""
    if warm_ups is NO_WARM_UPS or sharing.capacity == 1:
        return warm_ups
    thinned = {name: Network(thin(parts)) for name, parts in networks.items()}
    models = FluxModels(thinned, weights="", build="", sharing=sharing)
    requests = [request for name in networks for request in _requests(name) if models.capacity_for(request) > 1]
    shared = [partial(_advance, models, request, 1 + n) for request in requests for n in range(1, sharing.capacity)]
    return replace(warm_ups, later=[*warm_ups.later, *shared])


def thin(parts: FluxPipeline) -> FluxPipeline:
    """Return the network with a few of its blocks: it compiles what the whole one does, and computes a fraction."""
    transformer = copy(parts.transformer)
    transformer._modules = dict(transformer._modules)
    # The copied one would compute the whole network.
    vars(transformer).pop("forward", None)
    for name in ("transformer_blocks", "single_transformer_blocks"):
        setattr(transformer, name, nn.ModuleList(list(getattr(transformer, name))[:DISTINCT_BLOCKS]))
    return FluxPipeline(**(parts.components | {"transformer": transformer}))


def _renders(models: FluxModels, weights: Weights) -> Iterator[WarmUp]:
    for request in _requests(weights):
        yield partial(_render, models, request)


def _requests(weights: Weights) -> Iterator[ImageRequest]:
    for width, height in usual_sizes(weights):
        for model in _MODELS[weights]:
            yield _request(model, width, height)


def _request(model: Model, width: int, height: int) -> ImageRequest:
    inputs = ("",) * model.min_inputs
    return ImageRequest(model.name, "warm up", width, height, 1, model.parameters.guidance.default, 0, inputs=inputs)


def _render(models: FluxModels, request: ImageRequest) -> None:
    for _ in models.render([request], lambda *_: True, _inputs(request)):
        pass


def _advance(models: FluxModels, request: ImageRequest, images: int) -> None:
    """Do a step of so many images together."""
    started: list[Any] = [models.start(request, _inputs(request)) for _ in range(images)]
    models.advance(started)


def _inputs(request: ImageRequest) -> InputImages:
    return {"": Image.new("RGB", (request.width, request.height))}
