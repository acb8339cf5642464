"""Attention backends, by their names in FARM_ATTENTION: those of torch, and one that may be installed beside it.

diffusers has others that download a kernel when they are first used; a worker downloads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from farm.domain.errors import ConfigurationError
from farm.settings import AttentionName
from workers.pipelines.engine import (
    AttentionBackendName,
    FluxTransformer2DModel,
    dispatch_attention_fn,
    without_message,
)

#: Names of FARM_ATTENTION and of diffusers. `native` leaves the choice to torch; the other five are pinned.
BACKENDS: Mapping[AttentionName, str] = {
    "native": "native",
    "cudnn": "_native_cudnn",
    "flash": "_native_flash",
    "efficient": "_native_efficient",
    "math": "_native_math",
    "fa3": "_flash_3",
}
#: Tokens of the trial.
_TOKENS = 8


def use_attention(
    transformer: FluxTransformer2DModel, name: AttentionName, device: torch.device, number_format: torch.dtype
) -> None:
    """Have the transformer compute attention with this backend. Raises ConfigurationError if it does not work here."""
    config = transformer.config
    heads = torch.zeros(1, _TOKENS, config.num_attention_heads, config.attention_head_dim)
    try:
        with without_message("diffusers.models.modeling_utils", "experimental feature"):
            transformer.set_attention_backend(BACKENDS[name])
        _attend(heads.to(device, number_format), BACKENDS[name])
    except (RuntimeError, ValueError, ImportError, NotImplementedError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ConfigurationError(
            f"FARM_ATTENTION={name} does not work on {device} in {str(number_format).removeprefix('torch.')} "
            f"({reason}); unset it, or choose another of {', '.join(BACKENDS)}"
        ) from error


@torch.inference_mode()
def _attend(values: torch.Tensor, backend: str) -> None:
    dispatch_attention_fn(values, values, values, backend=AttentionBackendName(backend))
