"""The machine's hardware, as its driver and its files report it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from farm.process import hardware
from farm.process.hardware import Card, NoAnswer, Torch, cores, free_in_container, free_memory, visible
from tests.nvidia import TWO_CARDS, nvidia_smi

CARDS = [
    Card(0, "GPU-0a", "NVIDIA H100 80GB HBM3", 81559 * 2**20, 80994 * 2**20),
    Card(1, "GPU-1b", "NVIDIA GB10"),
]


def test_the_cards_are_what_the_driver_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, TWO_CARDS)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)

    assert hardware.cards() == CARDS

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "1")
    assert [(card.number, card.uuid) for card in hardware.cards()] == [(0, "GPU-1b")]


def test_the_cards_that_work_can_be_named_while_a_lost_one_stops_the_drivers_program(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nvidia_smi(tmp_path, monkeypatch, "Unable to determine the device handle for GPU 0000:41:00.0", status=15)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(NoAnswer, match=r"device handle for GPU 0000:41:00\.0; .*CUDA_VISIBLE_DEVICES to the UUIDs"):
        hardware.cards()

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "GPU-0a, GPU-2c")
    assert [(card.number, card.uuid) for card in hardware.cards()] == [(0, "GPU-0a"), (1, "GPU-2c")]


@pytest.mark.parametrize(
    ("names", "uuids"),
    [
        (None, ["GPU-0a", "GPU-1b"]),
        ("1,0", ["GPU-1b", "GPU-0a"]),
        ("GPU-1", ["GPU-1b"]),
        ("0,7,1", ["GPU-0a"]),
        ("MIG-5, 0", ["MIG-5", "GPU-0a"]),
        ("", []),
        ("-1", []),
    ],
)
def test_cards_are_visible_as_cuda_makes_them(names: str | None, uuids: list[str]) -> None:
    found = visible(CARDS, names)

    assert [card.uuid for card in found] == uuids
    assert [card.number for card in found] == list(range(len(uuids)))


def test_the_cores_are_those_of_the_container(tmp_path: Path) -> None:
    usable = len(os.sched_getaffinity(0))
    assert cores(tmp_path) == usable
    for limit, count in (("max 100000", usable), ("100000 100000", 1), ("50000 100000", 1), ("9900000 100000", usable)):
        (tmp_path / "cpu.max").write_text(f"{limit}\n")
        assert cores(tmp_path) == count


def test_a_container_counts_its_cache_as_free(tmp_path: Path) -> None:
    (tmp_path / "meminfo").write_text("MemTotal: 9 kB\nMemAvailable:   8 kB\n")
    assert free_in_container(tmp_path) == []
    for name, text in {
        "memory.max": "1000\n",
        "memory.current": "900\n",
        "memory.stat": "anon 1\ninactive_file 300\n",
    }.items():
        (tmp_path / name).write_text(text)
    assert free_in_container(tmp_path) == [400]
    assert free_memory(tmp_path / "meminfo", tmp_path) == 400
    (tmp_path / "memory.max").write_text("max\n")
    assert free_in_container(tmp_path) == []
    assert free_memory(tmp_path / "meminfo", tmp_path) == 8 * 1024
    assert free_memory(tmp_path / "none") is None


def test_the_build_of_torch_is_read_without_importing_it() -> None:
    import torch

    assert hardware.installed_torch() == Torch(torch.__version__, torch.version.cuda)
