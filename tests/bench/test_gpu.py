"""The render benchmark, run on a tiny network: what it counts, what it compares, and that it does so everywhere."""

from __future__ import annotations

import subprocess
import sys

import pytest
import torch

from farm.process import toolchain
from farm.settings import Settings
from tests.bench.gpu.benchmark import Benchmark
from tests.bench.gpu.floor import work_of
from tests.bench.gpu.networks import FLUX_DEV, TINY, in_fp8, random_network, twin
from tests.farms import clean_environment
from workers.pipelines.fp8 import Fp8Linear


def operations_of_a_step(width: int, height: int) -> int:
    """Return the operations of one forward of FLUX.1-dev, from its published dimensions."""
    text, side, inner, double, single = 512, 3072, 24 * 128, 19, 38
    image = (width // 16) * (height // 16)
    tokens = image + text
    linear = 24 * side**2 * (double * tokens + single * tokens)
    attention = (double + single) * 4 * tokens**2 * inner
    ends = 2 * image * 64 * side * 2 + 2 * text * 4096 * side
    modulation = 2 * side**2 * (double * 12 + single * 3 + 2)
    embeddings = 2 * (2 * (256 * side + side**2) + 768 * side + side**2)
    return linear + attention + ends + modulation + embeddings


def test_the_floor_counts_the_operations_of_flux() -> None:
    assert work_of(FLUX_DEV, (1024, 768)).step == operations_of_a_step(1024, 768)


def test_copies_share_weights_but_not_the_vaes_layout() -> None:
    parts = random_network(TINY, torch.device("cpu"), torch.float32)

    copied, quantised = twin(parts), in_fp8(parts, torch.device("cpu"))

    assert copied.transformer is not parts.transformer
    assert copied.transformer.x_embedder.weight is parts.transformer.x_embedder.weight
    assert copied.vae.decoder.conv_in.weight is not parts.vae.decoder.conv_in.weight
    assert isinstance(quantised.transformer.single_transformer_blocks[0].proj_mlp, Fp8Linear)
    assert not isinstance(copied.transformer.single_transformer_blocks[0].proj_mlp, Fp8Linear)


@pytest.mark.full
@pytest.mark.usefixtures("one_thread")
def test_every_level_format_and_number_of_images_has_a_row(capsys: pytest.CaptureFixture[str]) -> None:
    Benchmark(Settings(device="cpu", compile="off"), tiny=True).run()

    _, _, table = capsys.readouterr().out.partition("renderer ")
    *rows, forwards = [row.split() for row in table.splitlines() if row.startswith(("diffusers", "farm", "96x64"))]
    found = [tuple(row[:6]) for row in rows]
    steps = {"none": "8", "regular": "5", "high": "5"}
    assert found == [
        ("diffusers", "float32", "none", "96x64", "1", "8"),
        ("diffusers", "float32", "none", "96x64", "2", "8"),
        *(
            ("farm", number_format, level, "96x64", images, steps[level])
            for number_format in ("float32", "fp8")
            for images in ("1", "2")
            for level in steps
        ),
    ]
    *case, exact, shared, gain, largest, differing = forwards
    assert case == ["96x64", "none", "2"]
    assert float(gain) == pytest.approx(float(exact) / float(shared), rel=0.1)
    assert int(largest) <= 1
    assert float(differing.rstrip("%")) <= 2


@pytest.mark.full
@pytest.mark.timeout(1800)
@pytest.mark.skipif(toolchain.missing("cpu") is not None, reason="no C++ compiler")
def test_starts_with_and_without_kernels_and_compiled_rows() -> None:
    bench = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu", "--tiny"],
        env=clean_environment() | {"FARM_COMPILE": "on", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )

    assert bench.returncode == 0, bench.stderr
    rows = {line.split("  ")[0].strip(): line.split() for line in bench.stdout.splitlines()}
    assert float(rows["kernels kept"][-1]) < 0.7 * float(rows["no kernels on disk"][-1])
    assert "diffusers, compiled" in rows
