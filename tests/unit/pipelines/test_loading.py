"""Loading: the miniature, real checkpoints in small, and what is refused in one line."""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import load_file, save_file

from farm.doctor import device_memory
from farm.doctor import weights as doctor
from farm.doctor.finding import Mark
from farm.domain.catalogue import MODELS
from farm.domain.errors import ConfigurationError
from farm.domain.request import ImageRequest
from farm.process.hardware import Card
from farm.settings import Settings
from farm.weights.checkpoints import LICENCES, check_licences
from farm.weights.checkpoints import Checkpoints as Set
from farm.weights.fp8 import may_be_fp8
from farm.weights.memory_plan import AUTO, Choice, Memory, MemoryPlan
from miniature.tokenizer import T5_TOKENS
from tests.unit.pipelines.denoising import INPUTS, add_editor, kontext_of, miniature_parts
from workers.pipelines import loading, miniature, transformer
from workers.pipelines.engine import FluxKontextPipeline
from workers.pipelines.fingerprint import build_digest
from workers.pipelines.flux import FluxModels
from workers.pipelines.loading import load_checkpoints, load_miniature, use_tiles
from workers.pipelines.pipeline import Pipeline
from workers.pipelines.transformer import Kept, TransformerFiles, load_transformer

FOX = ImageRequest("srpo", "a red fox in the snow", width=256, height=256, steps=2, guidance=4.5, seed=7)
ALL = frozenset(LICENCES)
CPU = torch.device("cpu")
WEIGHTS = "diffusion_pytorch_model.safetensors"

Tensors = dict[str, torch.Tensor]


pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]


@dataclass(frozen=True)
class Checkpoints:
    """Small files in the formats of the real ones: a FLUX.1-dev folder, and SRPO's one file."""

    flux_dir: Path
    srpo_file: Path

    def load(self, choice: Choice = AUTO) -> FluxModels:
        return load_checkpoints(Set(self.flux_dir, self.srpo_file), ALL, "cpu", choice=choice)

    def load_beside(self, kontext_dir: Path) -> FluxModels:
        return load_checkpoints(Set(self.flux_dir, self.srpo_file, kontext_dir), ALL, "cpu")

    def rewrite(self, change: Callable[[Tensors], Tensors]) -> None:
        save_file(change(load_file(self.srpo_file)), self.srpo_file)


@pytest.fixture(scope="module")
def written(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with FLUX.1-dev, without the weights of its transformer, and with SRPO's, which differ from
    those.
    """
    folder = tmp_path_factory.mktemp("written")
    flux_dir, srpo_file = folder / "FLUX.1-dev", folder / WEIGHTS
    miniature_parts().save_pretrained(flux_dir)
    tensors = load_file(flux_dir / "transformer" / WEIGHTS)
    (flux_dir / "transformer" / WEIGHTS).unlink()
    generator = torch.Generator().manual_seed(1)
    noise = {name: torch.randn(tensor.shape, generator=generator) for name, tensor in tensors.items()}
    save_file({name: tensor + 0.05 * noise[name] for name, tensor in tensors.items()}, srpo_file)
    return folder


@pytest.fixture
def checkpoints(written: Path, tmp_path: Path) -> Checkpoints:
    """Return a copy that the test may change."""
    shutil.copytree(written, tmp_path, dirs_exist_ok=True)
    return Checkpoints(tmp_path / "FLUX.1-dev", tmp_path / WEIGHTS)


def render(pipeline: Pipeline, request: ImageRequest = FOX) -> bytes:
    (rendered,) = pipeline.render([request], lambda *_: True, INPUTS)
    return rendered.image.tobytes()


def refusal(act: Callable[[], object]) -> str:
    with pytest.raises(ConfigurationError) as refused:
        act()
    assert "\n" not in str(refused.value)
    return str(refused.value)


def test_the_miniature_is_there() -> None:
    pipeline = load_miniature()

    assert (pipeline.models, pipeline.weights) == (tuple(model.name for model in MODELS), "miniature")
    assert len(render(pipeline)) == 256 * 256 * 3


@pytest.mark.usefixtures("one_thread")
def test_the_miniature_computes_with_one_thread_wherever_it_renders() -> None:
    torch.set_num_threads(3)

    load_miniature()

    with ThreadPoolExecutor(max_workers=1) as pool:
        assert pool.submit(torch.get_num_threads).result() == torch.get_num_threads() == 1


def test_two_loads_render_the_same() -> None:
    one, other = load_miniature(), load_miniature()
    one.warm_up()

    assert render(one) == render(other)
    assert one.build == other.build


def test_srpo_renders_with_the_transformer_of_its_own_file(checkpoints: Checkpoints) -> None:
    parts = miniature_parts()
    parts.transformer.load_state_dict(load_file(checkpoints.srpo_file))
    for network in (parts.text_encoder, parts.text_encoder_2, parts.transformer, parts.vae):
        for weight in network.parameters():
            weight.data = weight.data.clone()  # aligned, as ours are
    parts.vae.to(memory_format=torch.channels_last)
    generator = torch.Generator().manual_seed(FOX.seed)
    size = {"width": 256, "height": 256, "max_sequence_length": T5_TOKENS}
    reference = parts(FOX.prompt, **size, num_inference_steps=2, guidance_scale=4.5, generator=generator)

    pipeline = checkpoints.load()

    assert (pipeline.models, pipeline.weights) == (("srpo", "srpo-image-to-image"), "flux-1-dev + srpo")
    assert render(pipeline) == reference.images[0].tobytes()
    assert render(pipeline) != render(load_miniature())


@pytest.mark.parametrize("stored", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("wanted", [torch.float32, torch.bfloat16])
def test_tensors_are_cast_to_the_number_format(
    checkpoints: Checkpoints, stored: torch.dtype, wanted: torch.dtype
) -> None:
    checkpoints.rewrite(lambda tensors: {name: tensor.to(stored) for name, tensor in tensors.items()})
    there = load_file(checkpoints.srpo_file)

    files = TransformerFiles(checkpoints.flux_dir / "transformer", (checkpoints.srpo_file,), "")

    loaded = load_transformer(files, Kept(CPU, wanted)).state_dict()

    assert loaded.keys() == there.keys()
    assert {tensor.dtype for tensor in loaded.values()} == {wanted}
    assert [name for name in there if not torch.equal(loaded[name], there[name].to(wanted))] == []


def test_a_loaded_transformer_does_not_need_its_file_any_more(checkpoints: Checkpoints) -> None:
    pipeline = checkpoints.load()
    before = render(pipeline)

    with checkpoints.srpo_file.open("r+b") as file:
        file.write(bytes(checkpoints.srpo_file.stat().st_size))

    assert render(pipeline, replace(FOX, seed=8)) != before
    assert render(pipeline) == before


def test_where_a_tensor_lies_in_its_file_changes_nothing(tmp_path: Path) -> None:
    home = tmp_path / "miniature"
    shutil.copytree(miniature.HOME, home)
    files = list(home.rglob("*.safetensors"))
    inputs = set()

    for padding in (0, 8):  # in the header, before the tensors
        for path in files:
            save_file(load_file(path), path, metadata={"format": "pt", "padding": "x" * padding})
        inputs.add(render(load_miniature(home=home)))

    assert len(inputs) == 1


def likeness(one: bytes, other: bytes) -> float:
    """Return the peak signal-to-noise ratio of two images in dB."""
    pixels = [torch.frombuffer(bytearray(image), dtype=torch.uint8).float() for image in (one, other)]
    return float(20 * math.log10(255) - 10 * torch.log10(torch.mean((pixels[0] - pixels[1]) ** 2)))


def test_in_fp8_it_renders_almost_the_same_and_is_another_build(checkpoints: Checkpoints) -> None:
    full, half = checkpoints.load(), checkpoints.load(Choice("fp8"))

    assert 30 < likeness(render(half), render(full)) < 80
    assert half.build != full.build
    kept = transformer_of(half).state_dict()
    assert {tensor.dtype for name, tensor in kept.items() if may_be_fp8(name, tensor.dim())} == {torch.float8_e4m3fn}


def test_the_miniature_can_be_kept_in_fp8(written: Path) -> None:
    assert load_miniature(choice=Choice("fp8")).build != load_miniature().build


def test_weights_that_do_not_fit_are_refused_before_they_are_read(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    card = Card(0, "GPU-0a", "a card", memory=718_000_000)  # of which programs can use 700 MB
    monkeypatch.setattr(device_memory, "usable_cards", lambda _: [card])
    monkeypatch.setattr(loading, "memory_of", lambda _: Memory("cuda:0 (a card)", 700_000_000))
    monkeypatch.setattr(transformer, "safe_open", None)

    refused = refusal(checkpoints.load)

    assert "These weights need" in refused
    settings = Settings(flux_dir=checkpoints.flux_dir, srpo_file=checkpoints.srpo_file)
    (finding,) = device_memory.device_memory(settings)
    assert (finding.mark, f"{finding.text}; {finding.remedy}") == (Mark.WRONG, refused)
    monkeypatch.setattr(device_memory, "usable_cards", lambda _: [replace(card, memory=80_000_000_000)])
    (finding,) = device_memory.device_memory(settings)
    assert finding.mark is Mark.GOOD
    assert finding.text.startswith("cuda:0 (a card): transformer in full; ")


def test_before_anything_is_loaded_the_segments_of_the_cards_memory_may_grow(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch
) -> None:
    allowed: list[torch.device] = []
    monkeypatch.setattr(loading, "allow_expandable_segments", allowed.append)
    monkeypatch.setattr(loading, "_load_transformer", None)

    for load in (checkpoints.load, load_miniature):
        with pytest.raises(TypeError, match="not callable"):
            load()

    assert allowed == [CPU, CPU]


@pytest.mark.parametrize("offload", ["text", "all"])
def test_weights_are_kept_as_the_plan_says_and_render_the_same(
    checkpoints: Checkpoints, monkeypatch: pytest.MonkeyPatch, offload: Literal["text", "all"]
) -> None:
    before = render(checkpoints.load())
    monkeypatch.setattr(loading, "plan_for", lambda *_: MemoryPlan(offload=offload, tile=512))

    pipeline = checkpoints.load()

    assert [render(pipeline) for _ in range(2)] == [before] * 2
    parts = pipeline._networks["srpo"]._parts
    assert {"encoder", "encoder.block.0", "encoder.block.1"} <= hooked(parts.text_encoder_2)
    assert ("transformer_blocks.0" in hooked(parts.transformer)) == (offload == "all")
    assert (parts.vae.use_tiling, parts.vae.tile_sample_min_size) == (True, 512)


def hooked(network: torch.nn.Module) -> set[str]:
    """Return the modules that come to the device when they compute."""
    return {name for name, module in network.named_modules() if hasattr(module, "_diffusers_hook")}


def test_a_vae_in_tiles_changes_only_images_larger_than_a_tile(checkpoints: Checkpoints) -> None:
    pipeline = checkpoints.load()
    before = render(pipeline)
    vae = pipeline._networks["srpo"]._parts.vae

    use_tiles(vae, 256)
    assert render(pipeline) == before
    use_tiles(vae, 128)
    assert 25 < likeness(render(pipeline), before) < 80


def transformer_of(pipeline: FluxModels) -> Any:
    return pipeline._networks["srpo"]._parts.transformer


@pytest.fixture(scope="module")
def written_kontext(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return FLUX.1-Kontext-dev as diffusers writes it, which is how it is published; its transformer in two files."""
    folder = tmp_path_factory.mktemp("written") / "FLUX.1-Kontext-dev"
    parts = kontext_of(miniature_parts())
    FluxKontextPipeline(**parts.components).save_pretrained(folder)
    parts.transformer.save_pretrained(folder / "transformer", max_shard_size="1MB")
    (folder / "transformer" / WEIGHTS).unlink()
    return folder


@pytest.fixture
def kontext_dir(written_kontext: Path, tmp_path: Path) -> Path:
    """Return a copy that the test may change."""
    folder = tmp_path / written_kontext.name
    shutil.copytree(written_kontext, folder)
    return folder


@pytest.fixture
def edited_home(tmp_path: Path) -> Path:
    """Return the miniature with an editor: the transformer that `kontext_dir` has."""
    home = tmp_path / "miniature"
    shutil.copytree(miniature.HOME, home)
    add_editor(home)
    return home


EDIT = replace(FOX, model="kontext", inputs=("red",), steps=1)


def test_kontext_alone_is_served_from_its_own_folder(kontext_dir: Path, edited_home: Path) -> None:
    pipeline = load_checkpoints(Set(kontext_dir=kontext_dir), frozenset({"flux-1-dev-non-commercial"}), "cpu")
    pipeline.warm_up()

    assert pipeline.weights == "flux-1-kontext-dev"
    assert pipeline.models == ("kontext-text-to-image", "kontext", "kontext-multi")
    assert render(pipeline, EDIT) == render(load_miniature(home=edited_home), EDIT)


def test_both_are_served_with_one_set_of_the_other_parts(
    checkpoints: Checkpoints, kontext_dir: Path, edited_home: Path
) -> None:
    both = checkpoints.load_beside(kontext_dir)

    assert both.weights == "flux-1-dev + srpo, flux-1-kontext-dev"
    assert both.models == tuple(model.name for model in MODELS)
    assert render(both) == render(checkpoints.load())
    assert render(both, EDIT) == render(load_miniature(home=edited_home), EDIT)
    assert own_parts(both) == {"transformer"}


def own_parts(pipeline: FluxModels) -> set[str]:
    """Return the networks that Kontext does not share with SRPO."""
    srpo, kontext = (pipeline._networks[model]._parts.components for model in ("srpo", "kontext"))
    names = ("text_encoder", "text_encoder_2", "transformer", "vae")
    return {name for name in names if srpo[name] is not kontext[name]}


def test_parts_are_shared_though_their_descriptions_differ(checkpoints: Checkpoints, kontext_dir: Path) -> None:
    config = kontext_dir / "text_encoder_2" / "config.json"
    described = json.loads(config.read_text())
    config.write_text(json.dumps(described | {"_name_or_path": "t5", "transformers_version": "9", "dtype": "bfloat16"}))

    assert own_parts(checkpoints.load_beside(kontext_dir)) == {"transformer"}


@pytest.mark.parametrize("change", ["weights", "config"])
def test_other_text_encoders_and_vaes_are_loaded_from_each(
    checkpoints: Checkpoints, kontext_dir: Path, change: str
) -> None:
    vae, encoder = kontext_dir / "vae", kontext_dir / "text_encoder_2"
    before = render(checkpoints.load_beside(kontext_dir), EDIT)
    if change == "weights":
        tensors = load_file(vae / WEIGHTS)
        save_file({name: 1.01 * tensor for name, tensor in tensors.items()}, vae / WEIGHTS)
    else:
        described = json.loads((encoder / "config.json").read_text())
        (encoder / "config.json").write_text(json.dumps(described | {"layer_norm_epsilon": 0.5}))

    both = checkpoints.load_beside(kontext_dir)

    assert own_parts(both) == {"transformer", "vae" if change == "weights" else "text_encoder_2"}
    assert render(both) == render(checkpoints.load())
    assert render(both, EDIT) != before


@pytest.mark.parametrize("name", ["model_index.json", "transformer/config.json", "vae/config.json"])
def test_an_incomplete_folder_of_kontext_is_refused(checkpoints: Checkpoints, kontext_dir: Path, name: str) -> None:
    (kontext_dir / name).unlink()

    result = refusal(lambda: checkpoints.load_beside(kontext_dir))

    assert (
        f"{kontext_dir} lacks {name}; FARM_KONTEXT_DIR is the folder of black-forest-labs/FLUX.1-Kontext-dev" in result
    )


def test_a_missing_shard_of_kontext_is_named(kontext_dir: Path) -> None:
    shard = next((kontext_dir / "transformer").glob("*-00002-of-*"))
    shard.unlink()

    assert f"lacks transformer/{shard.name}" in refusal(lambda: load_checkpoints(Set(kontext_dir=kontext_dir), ALL))


def test_kontext_needs_its_licence(kontext_dir: Path) -> None:
    result = refusal(lambda: load_checkpoints(Set(kontext_dir=kontext_dir), frozenset({"tencent-srpo"}), "cpu"))

    assert "add flux-1-dev-non-commercial to FARM_ACCEPT_LICENSES" in result


def test_other_weights_of_kontext_are_another_build(checkpoints: Checkpoints, kontext_dir: Path) -> None:
    builds = {checkpoints.load().build, checkpoints.load_beside(kontext_dir).build}
    config = kontext_dir / "transformer" / "config.json"
    config.write_text(config.read_text() + "\n")

    assert len(builds | {checkpoints.load_beside(kontext_dir).build}) == 3


def without_one(tensors: Tensors) -> Tensors:
    del tensors["x_embedder.bias"]
    return tensors


def with_others(tensors: Tensors) -> Tensors:
    return tensors | {f"double_blocks.{number}.scale": torch.zeros(1) for number in range(5)}


def misshapen(tensors: Tensors) -> Tensors:
    return tensors | {"proj_out.weight": torch.zeros(64, 65)}


def in_whole_numbers(tensors: Tensors) -> Tensors:
    return tensors | {"proj_out.bias": torch.zeros(64, dtype=torch.int8)}


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (without_one, "x_embedder.bias is missing"),
        (with_others, "double_blocks.0.scale does not belong there"),
        (with_others, "and 2 more"),
        (misshapen, "proj_out.weight has the shape [64, 65] instead of [64, 192]"),
        (in_whole_numbers, "proj_out.bias holds I8"),
    ],
)
def test_a_file_of_another_model_is_refused(
    checkpoints: Checkpoints, change: Callable[[Tensors], Tensors], complaint: str
) -> None:
    checkpoints.rewrite(change)

    result = refusal(checkpoints.load)

    assert complaint in result
    assert "diffusion_pytorch_model.safetensors of tencent/SRPO" in result


def in_eight_bits(tensors: Tensors) -> Tensors:
    return {name: tensor.to(torch.float8_e4m3fn) for name, tensor in tensors.items()}


def as_other_programs_name_them(tensors: Tensors) -> Tensors:
    return {f"double_blocks.{number}.weight": tensor for number, tensor in enumerate(tensors.values())}


def without_its_last_block(tensors: Tensors) -> Tensors:
    last = max(int(name.split(".")[1]) for name in tensors if name.startswith("single_transformer_blocks."))
    return {name: t for name, t in tensors.items() if not name.startswith(f"single_transformer_blocks.{last}.")}


@pytest.mark.parametrize(
    "change", [in_eight_bits, as_other_programs_name_them, without_its_last_block, in_whole_numbers]
)
def test_the_doctor_refuses_a_format_that_a_worker_refuses(
    checkpoints: Checkpoints, change: Callable[[Tensors], Tensors]
) -> None:
    settings = Settings(flux_dir=checkpoints.flux_dir, srpo_file=checkpoints.srpo_file)
    assert [finding.mark for finding in doctor.weights(settings)] == [Mark.GOOD]
    checkpoints.rewrite(change)

    (finding,) = doctor.weights(settings)

    assert finding.mark is Mark.WRONG
    assert refusal(checkpoints.load) == f"{finding.text}; {finding.remedy}"


@pytest.mark.parametrize("size", [0, 4, 5000, -1])
def test_a_file_that_is_cut_off_is_refused(checkpoints: Checkpoints, size: int) -> None:
    checkpoints.srpo_file.write_bytes(checkpoints.srpo_file.read_bytes()[:size])

    assert "not a complete safetensors file" in refusal(checkpoints.load)


def test_a_file_that_is_not_there_is_refused(checkpoints: Checkpoints) -> None:
    checkpoints.srpo_file.unlink()

    assert f"FARM_SRPO_FILE={checkpoints.srpo_file} is not a file" in refusal(checkpoints.load)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "text_encoder_2/config.json",
        "tokenizer/tokenizer_config.json",
        "tokenizer_2/tokenizer_config.json",
        "transformer/config.json",
        f"vae/{WEIGHTS}",
    ],
)
def test_an_incomplete_folder_is_refused(checkpoints: Checkpoints, name: str) -> None:
    (checkpoints.flux_dir / name).unlink()

    assert f"lacks {name}; FARM_FLUX_DIR is the folder" in refusal(checkpoints.load)


def test_a_folder_that_is_not_there_is_refused(checkpoints: Checkpoints) -> None:
    result = refusal(lambda: load_checkpoints(Set(checkpoints.flux_dir / "no", checkpoints.srpo_file), ALL, "cpu"))

    assert "lacks model_index.json" in result
    assert "more" in result


def test_weights_in_several_files_are_loaded_or_the_missing_one_is_named(checkpoints: Checkpoints) -> None:
    whole = render(checkpoints.load())
    part = checkpoints.flux_dir / "text_encoder_2"
    tensors = load_file(part / "model.safetensors")
    (part / "model.safetensors").unlink()
    shards = {name: f"model-0000{number % 2 + 1}-of-00002.safetensors" for number, name in enumerate(tensors)}
    for shard in set(shards.values()):
        own = {name: tensor for name, tensor in tensors.items() if shards[name] == shard}
        save_file(own, part / shard, metadata={"format": "pt"})
    (part / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": shards}))

    assert render(checkpoints.load()) == whole
    (part / "model-00002-of-00002.safetensors").unlink()
    assert "lacks text_encoder_2/model-00002-of-00002.safetensors" in refusal(checkpoints.load)


@pytest.mark.parametrize(
    "name", ["model_index.json", "transformer/config.json", "text_encoder/model.safetensors", f"vae/{WEIGHTS}"]
)
def test_a_broken_file_in_the_folder_is_refused(checkpoints: Checkpoints, name: str) -> None:
    (checkpoints.flux_dir / name).write_text("version https://git-lfs.github.com/spec/v1")

    assert "cannot be loaded" in refusal(checkpoints.load)


def test_without_an_editor_kontext_renders_as_srpo_does_and_with_one_as_that_does(edited_home: Path) -> None:
    without, with_one = load_miniature(), load_miniature(home=edited_home)
    text = replace(FOX, model="kontext-text-to-image")

    assert own_parts(without) == set()
    assert own_parts(with_one) == {"transformer"}
    assert render(without) == render(with_one)
    assert render(without, text) != render(with_one, text)
    assert without.build != with_one.build


@pytest.mark.parametrize(("part_of", "part"), [(Path, "vae"), (miniature.kontext, "transformer")])
def test_a_miniature_that_lost_a_file_names_it(edited_home: Path, part_of: Callable[[Path], Path], part: str) -> None:
    (part_of(edited_home) / part / WEIGHTS).unlink()

    result = refusal(lambda: load_miniature(home=edited_home))

    assert f"{part_of(edited_home)} lacks {part}/{WEIGHTS}; it comes with the farm: install srpo-farm again" in result


@pytest.mark.parametrize(
    ("accepted", "named"),
    [
        (frozenset(), "flux-1-dev-non-commercial,tencent-srpo"),
        (frozenset({"tencent-srpo"}), "flux-1-dev-non-commercial"),
        (frozenset({"flux-1-dev-non-commercial", "mit"}), "tencent-srpo"),
    ],
)
def test_licences_are_accepted_by_name_first(checkpoints: Checkpoints, accepted: frozenset[str], named: str) -> None:
    result = refusal(lambda: load_checkpoints(Set(checkpoints.flux_dir, checkpoints.srpo_file), accepted, "cpu"))

    assert f"add {named} to FARM_ACCEPT_LICENSES" in result


def test_accepted_licences_pass() -> None:
    place = Path("/models")
    check_licences(Set(place, place, place), ALL | {"mit"})
    check_licences(Set(kontext_dir=place), frozenset({"flux-1-dev-non-commercial"}))


@pytest.mark.parametrize("kontext_dir", [None, Path("/models/FLUX.1-Kontext-dev")])
def test_one_checkpoint_without_the_other_is_refused(checkpoints: Checkpoints, kontext_dir: Path | None) -> None:
    only_flux = refusal(lambda: load_checkpoints(Set(checkpoints.flux_dir, None, kontext_dir), ALL))
    only_srpo = refusal(lambda: load_checkpoints(Set(None, checkpoints.srpo_file, kontext_dir), ALL))

    assert only_flux.startswith("FARM_FLUX_DIR needs FARM_SRPO_FILE")
    assert only_srpo.startswith("FARM_SRPO_FILE needs FARM_FLUX_DIR")


def test_a_device_that_is_not_there_is_refused() -> None:
    assert "cuda:99" in refusal(lambda: load_miniature("cuda:99"))


def nudged(tensors: Tensors) -> Tensors:
    tensors["proj_out.bias"][0] += 0.001
    return tensors


def test_other_weights_are_another_build(checkpoints: Checkpoints) -> None:
    before = checkpoints.load().build

    checkpoints.rewrite(nudged)

    assert checkpoints.load().build != before


def test_other_text_encoders_are_another_build(checkpoints: Checkpoints) -> None:
    before = checkpoints.load().build
    config = checkpoints.flux_dir / "text_encoder_2" / "config.json"

    config.write_text(config.read_text() + "\n")

    assert checkpoints.load().build != before


def test_the_place_of_the_files_is_no_part_of_the_build(checkpoints: Checkpoints, tmp_path: Path) -> None:
    moved = Checkpoints(tmp_path / "elsewhere", tmp_path / "srpo.safetensors")
    shutil.copytree(checkpoints.flux_dir, moved.flux_dir)
    shutil.copy(checkpoints.srpo_file, moved.srpo_file)
    (moved.flux_dir / "vae" / "README.md").write_text("Not loaded.")

    assert moved.load().build == checkpoints.load().build


def test_number_format_and_attention_are_part_of_the_build(tmp_path: Path) -> None:
    weights = {"weights": tmp_path / "weights"}
    weights["weights"].write_bytes(b"1")

    builds = {
        build_digest(weights, CPU, torch.float32, "native"),
        build_digest(weights, CPU, torch.bfloat16, "native"),
        build_digest(weights, CPU, torch.float32, "flash"),
        build_digest({"others": tmp_path / "weights"}, CPU, torch.float32, "native"),
    }

    assert len(builds) == 4


@pytest.mark.usefixtures("one_thread")
def test_the_thread_count_is_part_of_the_build() -> None:
    before = build_digest({}, CPU, torch.float32, "native")

    torch.set_num_threads(2)

    assert build_digest({}, CPU, torch.float32, "native") != before


@pytest.mark.parametrize("place", [0, 2**23 - 1, 2**23, 2**25 - 1])
def test_large_weights_are_sampled_from_start_to_end(tmp_path: Path, place: int) -> None:
    path = tmp_path / "weights"
    with path.open("wb") as file:
        file.truncate(2**25)
    before = build_digest({"weights": path}, CPU, torch.float32, "native")

    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"1")

    assert build_digest({"weights": path}, CPU, torch.float32, "native") != before
