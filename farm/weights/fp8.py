"""The fp8 format: tensors of a FLUX transformer that may be kept in it, and the names of their scales in a file."""

from __future__ import annotations

import re
from collections.abc import Mapping

#: The linear layers of the blocks, 72 % of the values. AdaLN (`norm…`) and the layers outside the blocks steer every
#: token, and stay as they are.
_WEIGHT = re.compile(r"(?:single_)?transformer_blocks\.\d+\.(?!norm)(?P<layer>.+)\.weight")
#: Suffix, beside `.weight`, of a layer's scales in a file: one for each row, as other programs name them, too.
SCALE = ".weight_scale"
#: The number format of the weights, as safetensors names it.
FP8_FORMAT = "F8_E4M3"


def may_be_fp8(tensor: str, dimensions: int) -> bool:
    """Return True if this tensor of a FLUX transformer, by diffusers' name, may be kept in fp8."""
    return dimensions == 2 and _WEIGHT.fullmatch(tensor) is not None


def scale_of(weight: str) -> str:
    """Return the name of the scales of a weight in fp8."""
    return weight.removesuffix(".weight") + SCALE


def is_scaled_fp8(tensor: str, formats: Mapping[str, str]) -> bool:
    """Return True for a weight in fp8 with scales beside it. Values without scales are another program's format."""
    return formats[tensor] == FP8_FORMAT and scale_of(tensor) in formats
