"""Transformers in GGUF files: small ones, written as the community's are."""

from __future__ import annotations

from pathlib import Path

import gguf
import pytest
import torch
from gguf import GGMLQuantizationType
from safetensors.torch import load_file

from farm.domain.errors import ConfigurationError
from farm.domain.request import ImageRequest
from farm.weights.checkpoints import LICENCES, Checkpoints
from tests.unit.pipelines.denoising import miniature_parts
from workers.calibration.likeness import psnr
from workers.pipelines import miniature
from workers.pipelines.gguf import load_gguf_transformer
from workers.pipelines.loading import load_checkpoints
from workers.pipelines.transformer import Kept, TransformerFiles

pytestmark = pytest.mark.usefixtures("one_thread")

CONFIG = miniature.HOME / "transformer"
KEPT = Kept(torch.device("cpu"), torch.float32)


def write(path: Path, kind: GGMLQuantizationType, *, without: str = "") -> TransformerFiles:
    """Write the miniature's transformer with its matrices quantised."""
    writer = gguf.GGUFWriter(path, "flux")
    for name, tensor in load_file(CONFIG / "diffusion_pytorch_model.safetensors").items():
        values = tensor.float().numpy()
        if name == without:
            continue
        if tensor.dim() == 2:
            writer.add_tensor(name, gguf.quants.quantize(values, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, values)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return TransformerFiles(CONFIG, (path,), "download it again")


def weight_error(files: TransformerFiles) -> float:
    """Return the relative error of one layer's output."""
    full = load_file(CONFIG / "diffusion_pytorch_model.safetensors")
    layer = load_gguf_transformer(files, KEPT).get_submodule("transformer_blocks.0.attn.to_q")
    weight, bias = (full[f"transformer_blocks.0.attn.to_q.{part}"].float() for part in ("weight", "bias"))
    tokens = torch.randn(5, weight.shape[1], generator=torch.Generator().manual_seed(1))
    exact = tokens @ weight.t() + bias
    return float((layer(tokens) - exact).norm() / exact.norm())


def test_layers_compute_with_their_quantised_weights(tmp_path: Path) -> None:
    eight = weight_error(write(tmp_path / "q8.gguf", GGMLQuantizationType.Q8_0))
    four = weight_error(write(tmp_path / "q4.gguf", GGMLQuantizationType.Q4_0))

    assert 0 < eight < 0.01 < four < 0.2


def test_a_worker_renders_with_it_almost_as_with_full_weights(tmp_path: Path) -> None:
    flux_dir, files = tmp_path / "FLUX.1-dev", write(tmp_path / "srpo.gguf", GGMLQuantizationType.Q8_0)
    miniature_parts().save_pretrained(flux_dir)
    request = ImageRequest("srpo", "a red star", 256, 256, steps=2, guidance=4.5, seed=7)

    quantised, full = (
        load_checkpoints(Checkpoints(flux_dir, path), frozenset(LICENCES), "cpu")
        for path in (*files.paths, flux_dir / "transformer" / "diffusion_pytorch_model.safetensors")
    )

    images = [next(iter(pipeline.render([request], lambda *_: True))) for pipeline in (quantised, full)]
    assert 30 < psnr(*images) < 80
    assert quantised.build != full.build


def test_a_file_without_a_tensor_is_refused(tmp_path: Path) -> None:
    files = write(tmp_path / "q8.gguf", GGMLQuantizationType.Q8_0, without="proj_out.weight")

    with pytest.raises(
        ConfigurationError, match=r"q8\.gguf does not fit .*: proj_out\.weight is missing; download it again"
    ):
        load_gguf_transformer(files, KEPT)


def test_a_file_that_is_not_gguf_is_refused_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "other.gguf"
    path.write_bytes(b"GGUF" + bytes(20))

    with pytest.raises(ConfigurationError) as refused:
        load_gguf_transformer(TransformerFiles(CONFIG, (path,), ""), KEPT)

    assert "\n" not in str(refused.value)
