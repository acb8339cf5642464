"""Compiled networks: one graph per usual size, none for others, the same images, and warm before a job needs them.

Here torch's `eager` compiler runs the captured graphs as they are, which compares bytes. A long test has real kernels.
"""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch._dynamo.utils import counters

from farm.domain.acceleration import BUNDLED, Level
from farm.domain.catalogue import Weights
from farm.domain.errors import ConfigurationError
from farm.domain.request import ImageRequest
from farm.process import toolchain
from tests.farms import clean_environment
from tests.unit.pipelines.denoising import miniature_parts, pipeline_of
from workers.pipelines.compilation import CompilationActivity, CompiledSizes, compile_network, whole
from workers.pipelines.execution import Execution, is_compiled
from workers.pipelines.flux import FluxModels
from workers.pipelines.pipeline import NO_WARM_UPS, WarmUp, WarmUps
from workers.pipelines.warm_up import warm_ups_of

captured = partial(whole, backend="eager")
CPU, CUDA = torch.device("cpu"), torch.device("cuda", 0)
#: Two of the usual sizes; another with as many tokens as the first; and one that is not usual.
USUAL, OTHER, ALIKE, UNUSUAL = (512, 512), (1024, 576), (256, 1024), (300, 300)
#: Graphs of a usual size: two kinds of first blocks, the single blocks behind the first, and the decoder.
GRAPHS = 4


def graphs() -> int:
    return int(counters["stats"]["unique_graphs"])


def pixels(models: FluxModels, size: tuple[int, int]) -> bytes:
    (rendered,) = models.render([ImageRequest("srpo", "a red star", *size, 2, 4.5, seed=1)], lambda *_: True)
    return rendered.pixels


def warm_up_of(size: tuple[int, int], warm_ups: WarmUps) -> WarmUp:
    (found,) = (each for each in warm_ups.later if size_of(each)[1:] == size)
    return found


def size_of(warm_up: WarmUp) -> tuple[str, int, int]:
    """Return model, width and height of what is rendered."""
    request = warm_up.args[1]  # type: ignore[attr-defined]
    return request.model, request.width, request.height


@pytest.fixture
def compiled(parts: Any) -> Iterator[Any]:
    """Return the parts of a network whose graphs are captured."""
    torch._dynamo.reset()
    counters.clear()
    compile_network(parts, CompiledSizes.of([Weights.SRPO], grid=64), captured)
    yield parts
    torch._dynamo.reset()


@pytest.mark.full
@pytest.mark.timeout(400)  # a busy machine
@pytest.mark.usefixtures("one_thread")
def test_usual_sizes_are_compiled_whole_beside_jobs_and_no_image_changes(compiled: Any) -> None:
    plain = {size: pixels(pipeline_of(miniature_parts()), size) for size in (USUAL, ALIKE, UNUSUAL, OTHER)}
    models, activity, seen = pipeline_of(compiled), CompilationActivity(), []
    warm_ups = warm_ups_of({Weights.SRPO: compiled})
    thread = threading.Thread(target=warm_up_of(USUAL, warm_ups))

    thread.start()
    while thread.is_alive():
        assert pixels(models, UNUSUAL) == plain[UNUSUAL]
        seen.append(activity.is_compiling())
    thread.join()

    assert any(seen)
    assert not activity.is_compiling()
    assert (graphs(), dict(counters["graph_break"])) == (GRAPHS, {})
    # The transformer knows the token count of ALIKE, too; the decoder does not know its shape.
    assert [pixels(models, size) == plain[size] for size in (USUAL, ALIKE)] == [True, True]
    assert graphs() == GRAPHS
    assert pixels(models, OTHER) == plain[OTHER]
    assert graphs() == 2 * GRAPHS
    # With dynamic shapes, the kernels of a size would depend on what was rendered before. This one has OTHER's tokens.
    pixels(models, OTHER[::-1])
    assert graphs() == 2 * GRAPHS + 1


def test_each_usual_size_of_each_model_is_warmed_up_the_default_first(parts: Any) -> None:
    warm_ups = warm_ups_of({Weights.SRPO: parts, Weights.KONTEXT: parts})

    assert list(map(size_of, warm_ups.first)) == [("srpo", 1024, 768), ("kontext-text-to-image", 1024, 1024)]
    assert {("srpo", 512, 512), ("srpo", 1280, 720), ("kontext", 1024, 1024)} < set(map(size_of, warm_ups.later))


@pytest.mark.parametrize(
    ("choice", "device", "lacks", "expected"),
    [
        ("auto", CUDA, None, True),
        ("auto", CUDA, "a compiler", False),
        ("auto", CPU, None, False),
        ("on", CPU, None, True),
        ("off", CUDA, None, False),
    ],
)
def test_cards_are_compiled_for_by_default_if_the_machine_can(
    monkeypatch: pytest.MonkeyPatch, choice: Any, device: torch.device, lacks: str | None, expected: bool
) -> None:
    monkeypatch.setattr(toolchain, "missing", lambda _: lacks)

    assert is_compiled(choice, device) is expected


def test_required_compilation_without_a_compiler_is_refused(monkeypatch: pytest.MonkeyPatch, parts: Any) -> None:
    monkeypatch.setattr(toolchain, "missing", lambda _: "a compiler (sudo apt install g++)")

    with pytest.raises(ConfigurationError, match=r"FARM_COMPILE=on needs a compiler \(sudo apt install g\+\+\)"):
        Execution(compile="on").prepare({Weights.SRPO: parts}, CPU, torch.float32)


def test_attention_levels_and_compiled_sizes_are_facts_of_the_build(parts: Any) -> None:
    def prepared(**settings: Any) -> Any:
        return Execution(**settings).prepare({Weights.SRPO: parts}, CPU, torch.float32)

    other_levels = BUNDLED.model_copy(update={"high": Level(order=1, masks=BUNDLED.high.masks)})
    plain, other, accelerated = prepared(), prepared(attention="math"), prepared(levels=other_levels)
    assert plain.warm_ups is NO_WARM_UPS
    compiled = prepared(compile="on")
    assert len({plain.facts, other.facts, accelerated.facts, compiled.facts}) == 4
    assert "3072" not in plain.facts
    assert "192" in compiled.facts  # tokens of 1024x768 in the miniature


#: Renders a usual size with real kernels; prints the largest difference to the plain image, and how many graphs came
#: from the disk.
PROGRAM = """
import torch
from torch._dynamo.utils import counters
from tests.unit.pipelines.test_compilation import USUAL, pixels
from workers.pipelines.execution import Execution
from workers.pipelines.loading import load_miniature

images = [pixels(load_miniature(execution=Execution(compile=choice)), USUAL) for choice in ("off", "on")]
found = [counters["inductor"][f"fxgraph_cache_{outcome}"] for outcome in ("hit", "miss")]
print(max(abs(one - other) for one, other in zip(*images)), *found)
"""


@pytest.mark.full
@pytest.mark.timeout(900)
@pytest.mark.skipif(toolchain.missing("cpu") is not None, reason="no C++ compiler")
def test_kernels_are_kept_on_disk_and_used_by_the_next_process(tmp_path: Path) -> None:
    variables = clean_environment() | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path)}

    runs = [
        subprocess.run([sys.executable, "-c", PROGRAM], env=variables, capture_output=True, text=True, check=True)
        for _ in range(2)
    ]

    levels, hits, misses = zip(*(map(int, run.stdout.split()) for run in runs), strict=True)
    assert max(levels) <= 2
    assert (hits, misses) == ((0, GRAPHS), (GRAPHS, 0))
