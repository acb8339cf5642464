"""Loading of a transformer from a GGUF file, in which its layers stay quantised; each is expanded when it computes."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path

from farm.domain.errors import ConfigurationError
from workers.pipelines.engine import FluxTransformer2DModel, GGUFQuantizationConfig
from workers.pipelines.transformer import Kept, TransformerFiles, empty_model, readable, refuse_misfit


def load_gguf_transformer(files: TransformerFiles, kept: Kept) -> FluxTransformer2DModel:
    """Load a transformer from its one GGUF file, with the names of FLUX.1's authors or of diffusers."""
    if find_spec("gguf") is None:
        raise ConfigurationError(f"{files.paths[0]} needs the package gguf; pip install 'srpo-farm[gguf]'")
    (path,) = files.paths
    with readable(path):
        refuse_misfit(files, _lacking(path, empty_model(files.config)))
        model = FluxTransformer2DModel.from_single_file(
            str(path),
            config=str(files.config),
            quantization_config=GGUFQuantizationConfig(compute_dtype=kept.number_format),
            dtype=kept.number_format,
            device=kept.device,
            local_files_only=True,
        )
    refuse_misfit(files, [f"{name} is missing" for name, tensor in model.named_parameters() if tensor.is_meta])
    return model.requires_grad_(False).eval()


def _lacking(path: Path, model: FluxTransformer2DModel) -> list[str]:
    """Name the tensors that a file with diffusers' names lacks; without one, diffusers looks for the authors' names."""
    from gguf import GGUFReader

    names = {tensor.name for tensor in GGUFReader(path).tensors}
    has_own_names = any(name.startswith("transformer_blocks.") for name in names)
    return [f"{name} is missing" for name in model.state_dict() if has_own_names and name not in names]
