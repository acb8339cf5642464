"""Models that stay in the machine's memory and pass through the card block by block, copied beside the computation."""

from __future__ import annotations

import torch
from torch import nn

from workers.pipelines.engine import apply_group_offloading


def offload_text_encoder(encoder: nn.Module, device: torch.device) -> None:
    """Offload T5: half a second more per new prompt, and 9.5 GB less on the card; the embeddings are the same."""
    # Its blocks are one level down; diffusers looks at the top level only.
    _offload(encoder.get_submodule("encoder"), device)


def offload_transformer(transformer: nn.Module, device: torch.device) -> None:
    """Offload a transformer: every denoising step then copies all of it to the card."""
    _offload(transformer, device)


def _offload(model: nn.Module, device: torch.device) -> None:
    apply_group_offloading(
        model,
        onload_device=device,
        offload_device=torch.device("cpu"),
        offload_type="block_level",
        num_blocks_per_group=1,
        use_stream=device.type == "cuda",
    )
