"""What this farm knows how to serve: models, the ids by which callers name them, and the limits. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain

#: fal's presets, in pixels (width, height). Source: fal's own toolkit.
SIZE_PRESETS: dict[str, tuple[int, int]] = {
    "square_hd": (1024, 1024),
    "square": (512, 512),
    "portrait_4_3": (768, 1024),
    "portrait_16_9": (576, 1024),
    "landscape_4_3": (1024, 768),
    "landscape_16_9": (1024, 576),
}

#: Kontext's ratios and the size of each, in pixels: the nearest entries of diffusers' list of its training sizes.
KONTEXT_SIZES: dict[str, tuple[int, int]] = {
    "21:9": (1568, 672),
    "16:9": (1392, 752),
    "4:3": (1184, 880),
    "3:2": (1248, 832),
    "1:1": (1024, 1024),
    "2:3": (832, 1248),
    "3:4": (880, 1184),
    "9:16": (752, 1392),
    "9:21": (672, 1568),
}

MIN_SIDE = 256
MAX_SIDE = 2560
#: Most pixels of one image (2.8 megapixels).
MAX_PIXELS = 2_800_000
MAX_STEPS = 50
MAX_GUIDANCE = 20
MAX_IMAGES = 4
MAX_PROMPT = 4000  # characters
#: Largest file that a caller may upload, in bytes, and how many parts it may come in. Clients send parts of 10 MiB.
MAX_UPLOAD = 200 * 1024 * 1024
MOST_PARTS = 1000


@dataclass(frozen=True, slots=True)
class Model:
    """A model and its ids. `name` is what workers announce; the ids are what each provider's callers send."""

    name: str
    title: str
    #: Dialect → the ids by which its callers name the model.
    ids_of: Mapping[str, tuple[str, ...]]

    @property
    def ids(self) -> tuple[str, ...]:
        """Every id of the model, the farm's own first."""
        return tuple(dict.fromkeys((self.name, *chain.from_iterable(self.ids_of.values()))))

    def of(self, dialect: str) -> tuple[str, ...]:
        """The ids by which callers of this dialect name the model."""
        return self.ids_of.get(dialect, ())


SRPO = Model(
    name="srpo",
    title="FLUX.1-dev SRPO, text to image",
    ids_of={
        "openai": ("srpo",),
        "aimlapi": ("flux/srpo", "flux/srpo/text-to-image"),
        "siraya": ("flux-1-srpo-text-to-image",),
        "fal": ("fal-ai/flux/srpo",),
        "wavespeed": ("wavespeed-ai/flux-srpo", "wavespeed-ai/flux-1-srpo"),
    },
)
SRPO_IMAGE = Model(
    name="srpo-image-to-image",
    title="FLUX.1-dev SRPO, image to image",
    ids_of={
        "openai": ("srpo-image-to-image",),
        "fal": ("fal-ai/flux/srpo/image-to-image",),
        "wavespeed": (
            "wavespeed-ai/flux-srpo-image-to-image",  # the page's name
            "wavespeed-ai/flux-srpo/image-to-image",  # what the page's own examples post to
            "wavespeed-ai/flux-1-srpo/image-to-image",
        ),
    },
)
KONTEXT_TEXT = Model(
    name="kontext-text-to-image",
    title="FLUX.1 Kontext [dev], text to image",
    ids_of={
        "openai": ("kontext-text-to-image",),
        "fal": ("fal-ai/flux-pro/kontext/text-to-image", "fal-ai/flux-pro/kontext/max/text-to-image"),
    },
)
KONTEXT = Model(
    name="kontext",
    title="FLUX.1 Kontext [dev], edit",
    ids_of={"openai": ("kontext",), "fal": ("fal-ai/flux-pro/kontext", "fal-ai/flux-pro/kontext/max")},
)
KONTEXT_MULTI = Model(
    name="kontext-multi",
    title="FLUX.1 Kontext [dev], several images",
    ids_of={
        "openai": ("kontext-multi",),
        "fal": ("fal-ai/flux-pro/kontext/multi", "fal-ai/flux-pro/kontext/max/multi"),
    },
)

MODELS: tuple[Model, ...] = (SRPO, SRPO_IMAGE, KONTEXT_TEXT, KONTEXT, KONTEXT_MULTI)

_BY_ID = {model_id: model for model in MODELS for model_id in model.ids}


def find(model_id: str) -> Model | None:
    """The model that callers mean by `model_id`, in whatever dialect they name it."""
    return _BY_ID.get(model_id)
