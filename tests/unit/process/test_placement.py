"""Placement of workers: what `farm up` gives each of them, on machines with and without cards."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from farm.cli import up
from farm.process import placement
from farm.process.hardware import Torch
from farm.process.listen import ListenAddress
from farm.process.placement import Place, places
from farm.settings import Settings
from tests.nvidia import TWO_CARDS, nvidia_smi

REAL = {"kontext_dir": Path("/weights/kontext")}
GB = 1_000_000_000


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Pretend to be a machine with two cards and eight cores."""
    nvidia_smi(tmp_path, monkeypatch, TWO_CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    monkeypatch.setattr(placement, "installed_torch", lambda: Torch("2.13.0", "13.0"))
    monkeypatch.setattr(placement, "cores", lambda: 8)
    monkeypatch.setattr(placement, "free_memory", lambda: 64 * GB)


def devices(settings: dict[str, Any], workers: int | None = None) -> list[str | None]:
    return [place.device for place in places(Settings(**settings), workers)]


@pytest.mark.usefixtures("machine")
@pytest.mark.parametrize(
    ("settings", "workers", "expected"),
    [
        (REAL, None, ["cuda:0", "cuda:1"]),
        (REAL | {"device": "cuda"}, None, ["cuda:0", "cuda:1"]),
        (REAL | {"device": "cuda:1"}, None, ["cuda:1"]),
        (REAL | {"device": "cuda:7"}, None, [None]),  # which the worker refuses
        (REAL | {"device": "cpu"}, None, [None]),
        (REAL, 1, ["cuda:0"]),
        (REAL, 4, ["cuda:0", "cuda:1", "cuda:0", "cuda:1"]),
        ({"device": "cuda"}, None, ["cuda:0", "cuda:1"]),
        ({}, None, [None] * 8),
        ({"pipeline": "simulated", "device": "cuda"}, 3, [None] * 3),
    ],
)
def test_each_card_has_a_worker(settings: dict[str, Any], workers: int | None, expected: list[str | None]) -> None:
    assert devices(settings, workers) == expected


@pytest.mark.usefixtures("machine")
def test_a_torch_without_cuda_uses_no_card(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(placement, "installed_torch", lambda: Torch("2.13.0+cpu", None))

    assert devices(REAL) == [None]


@pytest.mark.parametrize(
    ("cores", "free", "workers"), [(2, 16 * GB, 2), (16, 12 * GB, 4), (4, None, 4), (4, GB // 2, 1), (1, 16 * GB, 1)]
)
def test_without_a_card_cores_and_memory_decide(
    monkeypatch: pytest.MonkeyPatch, cores: int, free: int | None, workers: int
) -> None:
    monkeypatch.setattr(placement, "cores", lambda: cores)
    monkeypatch.setattr(placement, "free_memory", lambda: free)

    assert devices({}) == [None] * workers


@pytest.mark.parametrize(("workers", "threads"), [(1, 8), (3, 2), (16, 1)])
def test_workers_share_the_cores(monkeypatch: pytest.MonkeyPatch, workers: int, threads: int) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 8)

    assert places(Settings(), workers) == [Place(None, threads)] * workers


class Started:
    """The supervisor of `farm up`, which only starts the workers. `names`: those by which it would tell their ends."""

    names: ClassVar[list[str]] = []

    def __init__(self, _redis: object, *, api: object, workers: list[Any], deaths: object) -> None:
        self._workers = workers[:-1]
        self.names[:] = [worker.name for worker in self._workers]

    def run(self, *_: object) -> None:
        for worker in self._workers:
            worker.start()
            worker._process.wait()


@pytest.mark.usefixtures("machine")
def test_each_child_is_given_a_card_of_its_own_and_its_part_of_the_cores(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)
    report = tmp_path / "report"
    tell = (
        f"import json, os, sys; open({str(report)!r}, 'a').write(json.dumps([sys.argv[1:], dict(os.environ)]) + '\\n')"
    )
    monkeypatch.setattr(up, "worker_program", lambda _: [sys.executable, "-c", tell])
    monkeypatch.setattr(up, "Supervisor", Started)
    settings = Settings(redis_url="redis://nowhere", **REAL)  # type: ignore[arg-type]

    up._supervise(settings, tmp_path, ListenAddress("127.0.0.1", 0), places(settings, None))

    assert Started.names == ["worker 1 on cuda:0", "worker 2 on cuda:1"]
    given = [json.loads(line) for line in report.read_text().splitlines()]
    threads = ("OMP_NUM_THREADS", "TORCHINDUCTOR_COMPILE_THREADS")
    names = ("CUDA_VISIBLE_DEVICES", "FARM_DEVICE", *threads, "TORCHINDUCTOR_CACHE_DIR")
    assert [(words[:-2], *(variables[name] for name in names)) for words, variables in given] == [
        (["--device-name", "cuda:0"], "GPU-0a", "cuda", "4", "4", str(tmp_path / "kernels")),
        (["--device-name", "cuda:1"], "GPU-1b", "cuda", "4", "4", str(tmp_path / "kernels")),
    ]


@pytest.mark.parametrize(
    ("settings", "kept"),
    [
        ({}, True),
        ({"device": "cpu"}, True),
        ({"device": "cuda:0"}, False),
        ({"pipeline": "simulated"}, False),
        (REAL | {"device": "cpu"}, False),
    ],
)
def test_only_workers_of_the_miniature_on_the_cpu_keep_their_buffers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, settings: dict[str, Any], kept: bool
) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(up, "load", lambda: Settings(redis_url="redis://nowhere", **settings))
    monkeypatch.setattr(up, "set_up_log", lambda *_, **__: None)
    monkeypatch.setattr(up, "run_worker", lambda child, _: given.append(child._variables))
    monkeypatch.setenv("MALLOC_ARENA_MAX", "2")

    up.worker(data_dir=tmp_path, webhooks=False)

    assert [name in given[0] for name in ("MALLOC_TRIM_THRESHOLD_", "GLIBC_TUNABLES")] == [kept, kept]
    assert "MALLOC_ARENA_MAX" not in given[0]  # its operator's own value stands


def test_a_webhook_worker_alone_has_no_variables_of_rendering(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    given: list[dict[str, str]] = []
    monkeypatch.setattr(up, "load", lambda: Settings(redis_url="redis://nowhere"))
    monkeypatch.setattr(up, "set_up_log", lambda *_, **__: None)
    monkeypatch.setattr(up, "run_worker", lambda child, _: given.append(child._variables))

    up.worker(data_dir=tmp_path, webhooks=True)

    assert given == [{}]


def test_a_worker_alone_keeps_its_kernels_in_the_data_folder_or_where_its_operator_wants_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    given: list[str] = []
    monkeypatch.setattr(up, "load", lambda: Settings(redis_url="redis://nowhere"))
    monkeypatch.setattr(up, "set_up_log", lambda *_, **__: None)
    monkeypatch.setattr(up, "run_worker", lambda child, _: given.append(child._variables["TORCHINDUCTOR_CACHE_DIR"]))
    monkeypatch.delenv("TORCHINDUCTOR_CACHE_DIR", raising=False)

    up.worker(data_dir=tmp_path, webhooks=False)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", "/cache")
    up.worker(data_dir=tmp_path, webhooks=False)

    assert given == [str(tmp_path / "kernels"), "/cache"]
