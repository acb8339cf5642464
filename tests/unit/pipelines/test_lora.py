"""LoRA files: what they add to a transformer's weights, beside a plain formula and diffusers' own converter."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers.loaders.lora_conversion_utils import _convert_kohya_flux_lora_to_diffusers
from safetensors.torch import load_file, save_file

from farm.doctor.weights import loras as doctors_finding
from farm.domain.errors import ConfigurationError
from farm.domain.request import ImageRequest
from farm.settings import Settings
from farm.weights.fp8 import FP8_FORMAT, may_be_fp8
from farm.weights.lora_files import Lora, shapes_in, updates_in
from tests.unit.pipelines.denoising import render
from workers.pipelines import miniature
from workers.pipelines.engine import FluxTransformer2DModel
from workers.pipelines.fp8 import fp8_entries
from workers.pipelines.loading import load_miniature
from workers.pipelines.lora_fusion import fusion
from workers.pipelines.transformer import Kept, TransformerFiles, load_transformer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CPU = torch.device("cpu")
FULL = Kept(CPU, torch.float32)
WEIGHTS = "diffusion_pytorch_model.safetensors"
RANK = 3
STAR = ImageRequest("srpo", "a red star", width=256, height=256, steps=2, guidance=4.5, seed=7)
EDIT = ImageRequest("kontext-text-to-image", "a red star", width=256, height=256, steps=2, guidance=4.5, seed=7)

Tensors = dict[str, torch.Tensor]


@dataclass(frozen=True)
class Checkpoint:
    """A small transformer with random weights, in the files of a real one."""

    files: TransformerFiles
    stored: Tensors

    def load(self, *loras: Lora, kept: Kept = FULL) -> Tensors:
        with fusion(loras, self.files.paths) as change:
            return dict(load_transformer(self.files, kept, change).state_dict())

    @property
    def layers(self) -> list[str]:
        return [name.removesuffix(".weight") for name, weight in self.stored.items() if weight.dim() == 2]

    def refusal(self, path: Path, strength: float = 1.0) -> str:
        with pytest.raises(ConfigurationError) as refused:
            self.load(Lora(path, strength))
        assert "\n" not in str(refused.value)
        return str(refused.value)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Checkpoint:
    folder = tmp_path_factory.mktemp("lora") / "transformer"
    torch.manual_seed(5)
    model = FluxTransformer2DModel(
        in_channels=8,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=24,
        pooled_projection_dim=20,
        guidance_embeds=True,
        axes_dims_rope=(4, 4, 8),
    )
    model.save_pretrained(folder)
    return Checkpoint(TransformerFiles(folder, (folder / WEIGHTS,), ""), load_file(folder / WEIGHTS))


def matrices(rows: int, columns: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrices of an update, `down` and `up`."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(RANK, columns, generator=generator), torch.randn(rows, RANK, generator=generator)


def pair(weight: torch.Tensor, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the matrices of an update of this weight."""
    rows, columns = weight.shape
    return matrices(rows, columns, seed)


def diffusers_keys(checkpoint: Checkpoint, seed: int = 0) -> Tensors:
    """Return an update of every layer, with alpha for every other one."""
    found: Tensors = {}
    for number, layer in enumerate(checkpoint.layers):
        down, up = pair(checkpoint.stored[f"{layer}.weight"], seed + number)
        found |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": up}
        if number % 2:
            found[f"transformer.{layer}.alpha"] = torch.tensor(1.5)
    return found


def written(path: Path, tensors: Tensors, metadata: dict[str, str] | None = None) -> Path:
    save_file({name: tensor.clone() for name, tensor in tensors.items()}, path, metadata)
    return path


def by_formula(weight: torch.Tensor, *updates: tuple[Tensors, str, float]) -> np.ndarray:
    """Return weight + strength * alpha / rank * up @ down for each update, in float64."""
    result = weight.double().numpy()
    for tensors, layer, strength in updates:
        down, up = (tensors[f"transformer.{layer}.{part}.weight"].double().numpy() for part in ("lora_A", "lora_B"))
        alpha = float(tensors.get(f"transformer.{layer}.alpha", RANK))
        result = result + strength * alpha / RANK * up @ down
    return result


def test_updates_of_several_files_are_added_as_the_formula_says(checkpoint: Checkpoint, tmp_path: Path) -> None:
    one, other = diffusers_keys(checkpoint), diffusers_keys(checkpoint, seed=100)
    paths = written(tmp_path / "one.safetensors", one), written(tmp_path / "other.safetensors", other)

    loaded = checkpoint.load(Lora(paths[0], 0.8), Lora(paths[1], -0.25))

    assert len(checkpoint.layers) > 40
    for layer in checkpoint.layers:
        wanted = by_formula(checkpoint.stored[f"{layer}.weight"], (one, layer, 0.8), (other, layer, -0.25))
        np.testing.assert_allclose(loaded[f"{layer}.weight"].numpy(), wanted, atol=5e-6)
    others = checkpoint.stored.keys() - {f"{layer}.weight" for layer in checkpoint.layers}
    assert others
    assert all(torch.equal(loaded[name], checkpoint.stored[name]) for name in others)


def test_the_sum_of_weight_and_lora_is_rounded_once(checkpoint: Checkpoint, tmp_path: Path) -> None:
    lora = Lora(written(tmp_path / "lora.safetensors", diffusers_keys(checkpoint)), 0.01)
    full = checkpoint.load(lora)

    halves = checkpoint.load(lora, kept=Kept(CPU, torch.bfloat16))
    eighths = checkpoint.load(lora, kept=Kept(CPU, torch.bfloat16, in_fp8=True))

    assert all(torch.equal(halves[name], weight.bfloat16()) for name, weight in full.items())
    for name, weight in full.items():
        wanted = fp8_entries(name, weight) if may_be_fp8(name, weight.dim()) else {name: weight.bfloat16()}
        assert all(torch.equal(eighths[entry].float(), value.float()) for entry, value in wanted.items())


def test_weights_of_sixteen_bits_are_rounded_once_however_many_files_change_them(
    checkpoint: Checkpoint, tmp_path: Path
) -> None:
    stored = {name: weight.bfloat16() for name, weight in checkpoint.stored.items()}
    of_halves = Checkpoint(TransformerFiles(tmp_path, (written(tmp_path / WEIGHTS, stored),), ""), stored)
    shutil.copy(checkpoint.files.config / "config.json", tmp_path)
    files = [diffusers_keys(checkpoint, seed) for seed in (0, 100, 200)]
    loras = [Lora(written(tmp_path / f"{number}.safetensors", file), 0.01) for number, file in enumerate(files)]

    loaded = of_halves.load(*loras, kept=Kept(CPU, torch.bfloat16))

    for layer in checkpoint.layers:
        sums = by_formula(stored[f"{layer}.weight"], *((file, layer, 0.01) for file in files))
        once = torch.from_numpy(sums).bfloat16()
        assert (loaded[f"{layer}.weight"] != once).float().mean() < 0.001  # on the border, fp32 and fp64 may differ


QKV = {"img_attn_qkv": ("to_q", "to_k", "to_v"), "txt_attn_qkv": ("add_q_proj", "add_k_proj", "add_v_proj")}


def test_keys_of_kohya_and_of_diffusers_give_the_same_bits(checkpoint: Checkpoint, tmp_path: Path) -> None:
    kohya: Tensors = {}
    ours: Tensors = {}

    def change(theirs: str, *names: str) -> None:
        shapes = [checkpoint.stored[f"{name}.weight"].shape for name in names]
        down, up = matrices(sum(shape[0] for shape in shapes), shapes[0][1], seed=len(kohya))
        kohya.update({f"lora_unet_{theirs}.lora_down.weight": down, f"lora_unet_{theirs}.lora_up.weight": up})
        kohya[f"lora_unet_{theirs}.alpha"] = torch.tensor(2.0)
        for name, part in zip(names, torch.split(up, [shape[0] for shape in shapes]), strict=True):
            ours.update({f"transformer.{name}.lora_A.weight": down, f"transformer.{name}.lora_B.weight": part})
            ours[f"transformer.{name}.alpha"] = torch.tensor(2.0)

    for number in range(2):
        double, single = f"transformer_blocks.{number}", f"single_transformer_blocks.{number}"
        for theirs, names in QKV.items():
            change(f"double_blocks_{number}_{theirs}", *(f"{double}.attn.{name}" for name in names))
        change(f"double_blocks_{number}_txt_mod_lin", f"{double}.norm1_context.linear")
        parts = (*(f"attn.{name}" for name in QKV["img_attn_qkv"]), "proj_mlp")
        change(f"single_blocks_{number}_linear1", *(f"{single}.{name}" for name in parts))
        change(f"single_blocks_{number}_linear2", f"{single}.proj_out")
    loaded = [
        checkpoint.load(Lora(written(tmp_path / f"{name}.safetensors", tensors), 0.7))
        for name, tensors in (("kohya", kohya), ("ours", ours))
    ]

    assert [name for name in loaded[0] if not torch.equal(loaded[0][name], loaded[1][name])] == []
    changed = {name for name in loaded[0] if not torch.equal(loaded[0][name], checkpoint.stored[name])}
    assert changed == {key.removeprefix("transformer.").replace(".alpha", ".weight") for key in ours if "alpha" in key}


def kohya_layers(width: int) -> Iterator[tuple[str, int, int]]:
    """Yield the layers of FLUX's authors in a model of one block each: name, rows and columns."""
    for stream in ("img", "txt"):
        yield f"double_blocks_0_{stream}_attn_qkv", 3 * width, width
        yield f"double_blocks_0_{stream}_attn_proj", width, width
        yield f"double_blocks_0_{stream}_mlp_0", 4 * width, width
        yield f"double_blocks_0_{stream}_mlp_2", width, 4 * width
        yield f"double_blocks_0_{stream}_mod_lin", 6 * width, width
    yield "single_blocks_0_linear1", 7 * width, width
    yield "single_blocks_0_linear2", width, 5 * width
    yield "single_blocks_0_modulation_lin", 3 * width, width
    for name, columns in (("time_in", 256), ("guidance_in", 256), ("vector_in", 768)):
        yield f"{name}_in_layer", width, columns
        yield f"{name}_out_layer", width, width
    yield "img_in", width, 64
    yield "txt_in", width, 4096
    yield "final_layer_linear", 64, width
    yield "final_layer_adaLN_modulation_1", 2 * width, width


def test_layers_of_flux_change_what_diffusers_own_converter_says(tmp_path: Path) -> None:
    with torch.device("meta"):
        flux = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    shapes = {name: tuple(tensor.shape) for name, tensor in flux.state_dict().items()}
    kohya: Tensors = {}
    for layer, rows, columns in kohya_layers(3072):
        kohya[f"lora_unet_{layer}.lora_down.weight"], kohya[f"lora_unet_{layer}.lora_up.weight"] = matrices(
            rows, columns, 1
        )
        if "final" not in layer:  # whose alpha diffusers drops
            kohya[f"lora_unet_{layer}.alpha"] = torch.tensor(1.0)
    theirs = _convert_kohya_flux_lora_to_diffusers(dict(kohya))
    theirs = {name.removeprefix("transformer."): tensor for name, tensor in theirs.items()}

    updates = updates_in(written(tmp_path / "kohya.safetensors", kohya), shapes)

    changed = set()
    for update in updates:
        scale = 1.0 if update.alpha is None else 1 / RANK
        for part in update.rows:
            layer = part.weight.removesuffix(".weight")
            changed.add(layer)
            up = theirs[f"{layer}.lora_B.weight"][part.first : part.first + part.count]
            probe = torch.ones(shapes[part.weight][1])
            wanted = up @ (theirs[f"{layer}.lora_A.weight"] @ probe)
            found = kohya[update.up][part.begin : part.begin + part.count] @ (kohya[update.down] @ probe) * scale
            torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-3)
    assert changed == {name.removesuffix(".lora_A.weight") for name in theirs if "lora_A" in name}
    assert changed == {name.removesuffix(".weight") for name, shape in shapes.items() if len(shape) == 2}


def test_alpha_in_pefts_metadata_counts(checkpoint: Checkpoint, tmp_path: Path) -> None:
    tensors = {name: tensor for name, tensor in diffusers_keys(checkpoint).items() if "alpha" not in name}
    one, other, *_ = checkpoint.layers
    trained = {"transformer.lora_alpha": 6, "transformer.alpha_pattern": {f"^{one}": 3}, "transformer.use_dora": False}
    path = written(tmp_path / "l.safetensors", tensors, {"lora_adapter_metadata": json.dumps(trained)})

    loaded = checkpoint.load(Lora(path, 1.0))

    for layer, alpha in ((one, 3), (other, 6)):
        tensors[f"transformer.{layer}.alpha"] = torch.tensor(float(alpha))
        wanted = by_formula(checkpoint.stored[f"{layer}.weight"], (tensors, layer, 1.0))
        np.testing.assert_allclose(loaded[f"{layer}.weight"].numpy(), wanted, atol=5e-6)


LAYER = "transformer.transformer_blocks.0.attn.to_q"
WRONG: dict[str, tuple[Callable[[Tensors], Tensors], str]] = {
    "unknown layer": (
        lambda t: {key.replace("blocks.0", "blocks.7"): value for key, value in t.items()},
        "the transformer has no layer transformer.transformer_blocks.7.attn.to_q",
    ),
    "no prefix": (
        lambda t: {key.removeprefix("transformer."): value for key, value in t.items()},
        "the key transformer_blocks.0.attn.to_q.lora_A.weight is unknown",
    ),
    "another method": (lambda t: {**t, f"{LAYER}.lokr_w1": torch.ones(1)}, f"the key {LAYER}.lokr_w1 is unknown"),
    "bias": (lambda t: {**t, f"{LAYER}.lora_B.bias": torch.ones(1)}, f"the key {LAYER}.lora_B.bias is unknown"),
    "text encoder": (
        lambda t: {**t, "lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha": torch.ones(1)},
        "it changes a text encoder, too (1 keys such as lora_te1_text_model_encoder_layers_0_mlp_fc1.alpha)",
    ),
    "half": (lambda t: {f"{LAYER}.lora_A.weight": t[f"{LAYER}.lora_A.weight"]}, f"{LAYER} has no lora_B or lora_up"),
    "alpha alone": (lambda t: {f"{LAYER}.alpha": torch.ones(())}, f"{LAYER} has no lora_A or lora_down"),
    "empty": (lambda t: {}, "it is empty"),
    "rows": (
        lambda t: {**t, f"{LAYER}.lora_B.weight": torch.ones(31, RANK)},
        f"{LAYER}.lora_B.weight has the shape [31, 3] instead of [32, 3]",
    ),
    "columns": (
        lambda t: {**t, f"{LAYER}.lora_A.weight": torch.ones(RANK, 33)},
        f"{LAYER}.lora_A.weight has the shape [3, 33] instead of [3, 32]",
    ),
    "rank": (
        lambda t: {**t, f"{LAYER}.lora_B.weight": torch.ones(32, 4)},
        f"{LAYER}.lora_B.weight has the shape [32, 4] instead of [32, 3]",
    ),
    "rank of nothing": (
        lambda t: {f"{LAYER}.lora_A.weight": torch.ones(0, 32), f"{LAYER}.lora_B.weight": torch.ones(32, 0)},
        f"{LAYER}.lora_A.weight has the shape [0, 32] instead of [1, 32]",
    ),
    "convolution": (
        lambda t: {**t, f"{LAYER}.lora_A.weight": torch.ones(RANK, 32, 1, 1)},
        f"{LAYER}.lora_A.weight has the shape [3, 32, 1, 1] instead of [3, 32]",
    ),
    "vector of alphas": (lambda t: {**t, f"{LAYER}.alpha": torch.ones(3)}, f"{LAYER}.alpha is not one number"),
    "number format": (
        lambda t: {**t, f"{LAYER}.lora_A.weight": torch.ones(RANK, 32, dtype=torch.int8)},
        f"{LAYER}.lora_A.weight holds I8 instead of F32, BF16, F16",
    ),
    "two names of one layer": (
        lambda t: t | {key.replace("transformer.", "diffusion_model.", 1): value for key, value in t.items()},
        "transformer_blocks.0.attn.to_q.weight is changed twice",
    ),
    "no number": (lambda t: {**t, f"{LAYER}.alpha": torch.tensor(torch.nan)}, "is not finite"),
}


@pytest.mark.parametrize("what", WRONG)
def test_a_file_that_does_not_fit_is_refused_in_one_line(checkpoint: Checkpoint, tmp_path: Path, what: str) -> None:
    change, reason = WRONG[what]
    down, up = matrices(32, 32, 1)
    path = written(tmp_path / "l.safetensors", change({f"{LAYER}.lora_A.weight": down, f"{LAYER}.lora_B.weight": up}))

    refusal = checkpoint.refusal(path)

    assert refusal.startswith(f"FARM_LORA: {path} cannot be fused: ")
    assert reason in refusal


def test_files_that_cannot_be_read_are_refused_in_one_line(checkpoint: Checkpoint, tmp_path: Path) -> None:
    path = tmp_path / "l.safetensors"
    assert "is not a file" in checkpoint.refusal(path)
    assert "is not a file" in checkpoint.refusal(tmp_path)

    path.write_bytes(b"PK\3\4 a pickle")
    assert "is not a complete safetensors file" in checkpoint.refusal(path)

    whole = written(path, diffusers_keys(checkpoint)).read_bytes()
    path.write_bytes(whole[:-1])
    assert f"({len(whole) - 1:,} bytes instead of {len(whole):,})" in checkpoint.refusal(path)

    path.unlink()
    for trained in ("[]", '{"lora_alpha": "much"}', '{"alpha_pattern": {"(": 1}}', "{"):
        written(path, diffusers_keys(checkpoint), {"lora_adapter_metadata": trained})
        assert "is not a complete safetensors file" in checkpoint.refusal(path)


@pytest.mark.parametrize("method", ["use_dora", "use_rslora"])
def test_a_lora_with_another_scaling_is_refused(checkpoint: Checkpoint, tmp_path: Path, method: str) -> None:
    trained = {"lora_adapter_metadata": json.dumps({f"transformer.{method}": True})}
    path = written(tmp_path / "l.safetensors", diffusers_keys(checkpoint), trained)

    assert f"it was trained with {method}" in checkpoint.refusal(path)


def test_quantised_weights_are_refused(checkpoint: Checkpoint, tmp_path: Path) -> None:
    converted = tmp_path / "fp8.safetensors"
    entries: Tensors = {}
    for name, weight in checkpoint.stored.items():
        entries |= fp8_entries(name, weight) if may_be_fp8(name, weight.dim()) else {name: weight}
    save_file(entries, converted)

    assert FP8_FORMAT == "F8_E4M3"
    for path in (converted, tmp_path / "srpo-Q8.gguf"):
        with pytest.raises(ConfigurationError, match=f"those of {path} are quantised; set FARM_SRPO_FILE"):
            shapes_in([path])


def star_lora(path: Path) -> Path:
    """Write an update of the miniature's transformer."""
    stored = load_file(miniature.HOME / "transformer" / WEIGHTS)
    layers = ("transformer_blocks.0.attn.to_q", "single_transformer_blocks.1.proj_out")
    tensors: Tensors = {}
    for number, layer in enumerate(layers):
        down, up = pair(stored[f"{layer}.weight"], number)
        tensors |= {f"transformer.{layer}.lora_A.weight": down, f"transformer.{layer}.lora_B.weight": 0.1 * up}
    return written(path, tensors)


def test_a_file_changes_srpos_images_and_the_build_but_not_kontexts(tmp_path: Path) -> None:
    path = star_lora(tmp_path / "star.safetensors")

    def loaded(*strengths: float) -> tuple[list[bytes], str]:
        pipeline = load_miniature(loras=[Lora(path, strength) for strength in strengths])
        return [image.tobytes() for image in render(pipeline, STAR, EDIT)], pipeline.build

    found = [loaded(), loaded(0.5), loaded(0.25, 0.25), loaded(-0.5), loaded(0.5)]

    assert len({images[1] for images, _ in found}) == 1
    assert all(one[0][0] != other[0][0] for one, other in pairwise(found[:2] + found[3:]))
    assert len({build for _, build in found}) == 4
    assert found[1] == found[4]

    written(path, {name: 2 * tensor for name, tensor in load_file(star_lora(path)).items()})
    assert loaded(0.5)[1] not in {build for _, build in found}


def test_the_doctor_says_what_a_worker_says(checkpoint: Checkpoint, tmp_path: Path) -> None:
    good = written(tmp_path / "good.safetensors", diffusers_keys(checkpoint))
    settings = Settings(flux_dir=tmp_path, srpo_file=checkpoint.files.paths[0], lora=((good, 0.5), (good, -2)))

    finding = doctors_finding(settings)

    number = len(checkpoint.layers)
    assert finding.text == f"{good} at 0.5, {good} at -2, which change {number} weights of SRPO's transformer"
    bad = written(tmp_path / "bad.safetensors", {"lora_te2_x.alpha": torch.ones(1)})
    for other in (bad, tmp_path / "none"):
        with pytest.raises(ConfigurationError) as refused:
            doctors_finding(settings.model_copy(update={"lora": ((other, 1.0),)}))
        assert str(refused.value) == checkpoint.refusal(other)
    with pytest.raises(ConfigurationError, match="only Kontext is set"):
        doctors_finding(Settings(kontext_dir=tmp_path, lora=((good, 1.0),)))
    assert doctors_finding(Settings(lora=((good, 1.0),))).text == f"{good} at 1"
