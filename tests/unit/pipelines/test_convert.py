"""Conversion of a transformer's file: what is written, and that a run which was killed goes on."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import subprocess
import sys
from collections import namedtuple
from contextlib import suppress
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from farm.cli import main
from farm.domain.errors import ConfigurationError
from farm.weights.fp8 import may_be_fp8
from farm.weights.manifest import manifest_of, manifest_path
from tests.farms import farm_command, wait_for
from workers.pipelines import convert as conversion
from workers.pipelines import miniature
from workers.pipelines.convert import convert
from workers.pipelines.engine import FluxTransformer2DModel
from workers.pipelines.transformer import Kept, TransformerFiles, load_transformer

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("one_thread")]

CONFIG = miniature.HOME / "transformer"
CPU = torch.device("cpu")


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Return a transformer's file in fp32, as SRPO is published."""
    path = tmp_path / "srpo.safetensors"
    stored = load_file(CONFIG / "diffusion_pytorch_model.safetensors")
    save_file({name: tensor.float() for name, tensor in stored.items()}, path)
    return path


def ignore(_count: int) -> None:
    """Do nothing with the progress."""


class Killed(Exception):
    """Stands for the end of the process."""


def interrupted(source: Path, target: Path, number_format: str, *, after: int) -> Path:
    """Convert until so many tensors are written, and return the unfinished file."""
    left = after

    def stop(_count: int) -> None:
        nonlocal left
        left -= 1
        if left < 0:
            raise Killed

    with pytest.raises(Killed):
        convert(source, target, number_format, stop)
    (partial,) = target.parent.glob(".*.partial")
    return partial


def test_bf16_rounds_every_tensor(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "bf16.safetensors"

    convert(source, target, "bf16", ignore)

    before, after = load_file(source), load_file(target)
    assert after.keys() == before.keys()
    assert all(torch.equal(after[name], before[name].bfloat16()) for name in before)
    assert target.stat().st_size < 0.52 * source.stat().st_size


def test_fp8_holds_what_a_worker_makes_of_the_original(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "fp8.safetensors"

    convert(source, target, "fp8", ignore)

    made = load_transformer(TransformerFiles(CONFIG, (source,), ""), Kept(CPU, torch.bfloat16, in_fp8=True))
    loaded = load_transformer(TransformerFiles(CONFIG, (target,), ""), Kept(CPU, torch.bfloat16))
    assert made.state_dict().keys() == loaded.state_dict().keys()
    assert [n for n, tensor in made.state_dict().items() if not torch.equal(loaded.state_dict()[n], tensor)] == []
    stored = load_file(target)
    assert {t.dtype for name, t in stored.items() if may_be_fp8(name, t.dim())} == {torch.float8_e4m3fn}
    assert stored["transformer_blocks.0.norm1.linear.weight"].dtype == torch.bfloat16


def test_the_manifest_has_the_digests_of_both_files(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "fp8.safetensors"
    read: list[int] = []

    returned = convert(source, target, "fp8", lambda count: read.append(count))

    assert returned == manifest_of(target)
    assert (returned.sha256, returned.source_sha256) == (
        hashlib.sha256(target.read_bytes()).hexdigest(),
        hashlib.sha256(source.read_bytes()).hexdigest(),
    )
    assert (returned.bytes, returned.source_bytes) == (target.stat().st_size, source.stat().st_size)
    assert sum(read) == source.stat().st_size
    assert [path.name for path in tmp_path.glob(".*")] == []


@pytest.mark.parametrize("number_format", ["bf16", "fp8"])
def test_a_run_that_was_killed_goes_on(
    source: Path, tmp_path: Path, number_format: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, target = tmp_path / "whole" / "target", tmp_path / "target"
    whole.parent.mkdir()
    once = convert(source, whole, number_format, ignore)
    partial = interrupted(source, target, number_format, after=40)
    with partial.open("ab") as file:
        file.write(b"half a tensor")
    converted: list[str] = []
    original = conversion._converted

    def noted(name: str, values: torch.Tensor, wanted: str) -> dict[str, torch.Tensor]:
        converted.append(name)
        return original(name, values, wanted)

    monkeypatch.setattr(conversion, "_converted", noted)

    again = convert(source, target, number_format, ignore)

    assert again == once
    assert target.read_bytes() == whole.read_bytes()
    assert len(converted) < len(load_file(source)) - 30


@pytest.mark.parametrize("size", [0, 4, 200])
def test_an_unfinished_file_without_its_header_is_begun_again(source: Path, tmp_path: Path, size: int) -> None:
    target = tmp_path / "target"
    partial = interrupted(source, target, "bf16", after=40)
    partial.write_bytes(partial.read_bytes()[:size])

    convert(source, target, "bf16", ignore)

    assert torch.equal(load_file(target)["proj_out.weight"], load_file(source)["proj_out.weight"].bfloat16())


def test_an_interrupted_conversion_of_another_source_is_not_continued(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target"
    interrupted(source, target, "bf16", after=100)
    save_file({name: tensor + 1 for name, tensor in load_file(source).items()}, source)

    convert(source, target, "bf16", ignore)

    before, after = load_file(source), load_file(target)
    assert all(torch.equal(after[name], before[name].bfloat16()) for name in before)


def test_a_file_that_is_not_a_full_transformer_is_refused(source: Path, tmp_path: Path) -> None:
    packed, other = tmp_path / "fp8.safetensors", tmp_path / "other.safetensors"
    convert(source, packed, "fp8", ignore)
    save_file({"x": torch.zeros(1)}, other)

    for path, words in ((packed, "is converted already"), (other, "x_embedder.weight is missing")):
        with pytest.raises(ConfigurationError, match=words):
            convert(path, tmp_path / "target", "bf16", ignore)


def test_a_disk_that_is_too_small_is_refused_at_once(
    source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = namedtuple("usage", "free")
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage(1000))

    with pytest.raises(ConfigurationError, match=r"0\.0 GB free"):
        convert(source, tmp_path / "target", "bf16", ignore)


def test_verify_tells_a_flipped_bit(source: Path, tmp_path: Path) -> None:
    target = tmp_path / "target.safetensors"
    convert(source, target, "bf16", ignore)
    runner = CliRunner()

    whole = runner.invoke(main.app, ["weights", "verify", str(target)])
    with target.open("r+b") as file:
        file.seek(-1, 2)
        (last,) = file.read(1)
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))
    flipped = runner.invoke(main.app, ["weights", "verify", str(target)])

    assert (whole.exit_code, flipped.exit_code) == (0, 1)
    assert "as on record" in whole.stdout
    assert json.loads(manifest_path(target).read_text())["sha256"] in flipped.stdout
    assert runner.invoke(main.app, ["weights", "verify", str(tmp_path / "none")]).exit_code == 1


def test_the_command_converts_the_file_of_the_settings_once(source: Path) -> None:
    settings = {"FARM_SRPO_FILE": str(source)}
    target = source.with_name("srpo.fp8.safetensors")

    done = farm_command("weights", "convert", "--to", "fp8", environment=settings, seconds=110)
    again = CliRunner().invoke(main.app, ["weights", "convert", "--to", "fp8"], env=settings)

    manifest = manifest_of(target)
    assert done.returncode == 0, done.stderr
    assert manifest is not None
    assert manifest.sha256 in done.stdout
    assert str(again.exception).startswith(f"{target} exists; check it with `farm weights verify {target}`")


def sparse_source(path: Path) -> None:
    """Write the layers of FLUX.1-dev in their sizes, but only one block of each kind, without taking the disk."""
    with torch.device("meta"):
        model = FluxTransformer2DModel(num_layers=1, num_single_layers=1, guidance_embeds=True)
    described, end = {}, 0
    for name, tensor in model.state_dict().items():
        described[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [end, end + 4 * tensor.numel()]}
        end += 4 * tensor.numel()
    header = json.dumps(described).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + end)


def anonymous_memory(pid: int) -> int:
    """Return the bytes of memory of a process that are its own, not pages of mapped files."""
    found = re.search(r"^RssAnon:\s+(\d+) kB", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) * 1024 if found else 0


@pytest.mark.full
@pytest.mark.timeout(900)
def test_layers_of_full_size_take_little_memory_and_survive_a_kill(tmp_path: Path) -> None:
    """The whole file has 57 such blocks, one after another: memory is that of its largest tensor."""
    source, target = tmp_path / "srpo.safetensors", tmp_path / "fp8.safetensors"
    sparse_source(source)
    program = [sys.executable, "-m", "workers.pipelines.convert", str(source), str(target), "fp8"]
    command = ["prlimit", f"--data={6 * 10**9}", *program]  # of a process's own memory; mapped files are not counted

    with subprocess.Popen(command) as first:
        wait_for(lambda: any(path.stat().st_size > 2e8 for path in tmp_path.glob(".*.partial")), seconds=300)
        first.kill()
    peak = 0
    with subprocess.Popen(command) as second:
        while second.poll() is None:
            with suppress(OSError):
                peak = max(peak, anonymous_memory(second.pid))
            with suppress(subprocess.TimeoutExpired):
                second.wait(0.02)

    manifest = manifest_of(target)
    assert second.returncode == 0
    assert manifest is not None
    assert manifest.sha256 == hashlib.sha256(target.read_bytes()).hexdigest()
    print(f"anonymous memory at most {peak / 1e9:.2f} GB for {source.stat().st_size / 1e9:.2f} GB")
    assert 2e8 < peak < 2e9
