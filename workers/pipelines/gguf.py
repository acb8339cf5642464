"""Loading of a transformer from a GGUF file, in which its layers stay quantised; each is expanded when it computes."""

from __future__ import annotations

from importlib.util import find_spec

from farm.domain.errors import ConfigurationError
from farm.weights.checkpoints import misfit
from workers.pipelines.engine import FluxTransformer2DModel, GGUFQuantizationConfig
from workers.pipelines.transformer import Kept, TransformerFiles, readable


def load_gguf_transformer(files: TransformerFiles, kept: Kept) -> FluxTransformer2DModel:
    """Load a transformer from its one GGUF file, with the names of FLUX.1's authors or of diffusers."""
    if find_spec("gguf") is None:
        raise ConfigurationError(f"{files.paths[0]} needs the package gguf; pip install 'srpo-farm[gguf]'")
    (path,) = files.paths
    with readable(path):
        model = FluxTransformer2DModel.from_single_file(
            str(path),
            config=str(files.config),
            quantization_config=GGUFQuantizationConfig(compute_dtype=kept.number_format),
            dtype=kept.number_format,
            device=kept.device,
            local_files_only=True,
        )
    missing = [f"{name} is missing" for name, tensor in model.named_parameters() if tensor.is_meta]
    if missing:
        raise ConfigurationError(misfit(path, missing, files.remedy))
    return model.requires_grad_(False).eval()
