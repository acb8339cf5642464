"""The miniature: made once, whole or not at all, the same everywhere."""

from __future__ import annotations

import hashlib
import json
import resource
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from workers.pipelines.engine import FluxPipeline
from workers.pipelines.miniature import ensure_kontext, ensure_miniature

#: Waits for its start signal, makes and loads the miniature, renders, and tells; a look at the network ends it.
PROCESS = """
import hashlib, json, sys
from pathlib import Path

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(no_network)
from farm.request import ImageRequest
from workers.pipelines.loading import load_miniature
from workers.pipelines.miniature import ensure_miniature

print("ready", flush=True)
sys.stdin.readline()
folder = Path(sys.argv[1])
pipeline = load_miniature(folder)
home = ensure_miniature(folder)
pipeline.warm_up()
requests = [ImageRequest(model, "a red fox " * 9, 256, 320, 3, 4.5, 7) for model in ("srpo", "kontext-text-to-image")]
digest = hashlib.sha256(b"".join(painted.image.tobytes() for painted in pipeline.render(requests, lambda *_: True)))
print(json.dumps([str(home), pipeline.build, digest.hexdigest()]))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(scope="module")
def home(folder: Path) -> Path:
    return ensure_miniature(folder)


@pytest.fixture(scope="module")
def kontext_home(folder: Path) -> Path:
    return ensure_kontext(folder)


@pytest.fixture(scope="module")
def parts(home: Path) -> Any:
    return FluxPipeline.from_pretrained(home, local_files_only=True)


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any], list[str]]:
    """Two processes that make the miniature in one folder at once: the folder, what they told, what they logged."""
    folder = tmp_path_factory.mktemp("twins")
    command = [sys.executable, "-c", PROCESS, str(folder)]
    pipe = subprocess.PIPE
    pair = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in pair:
        assert process.stdout is not None
        process.stdout.readline()
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    told = [process.communicate(timeout=60) for process in pair]
    return folder, [json.loads(out or "null") for out, _ in told], [err for _, err in told]


def digests(home: Path) -> dict[str, str]:
    return {
        path.relative_to(home).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in home.rglob("*")
        if path.is_file()
    }


@contextmanager
def full_disk_after(size: int) -> Iterator[None]:
    """Inside, a file cannot grow beyond `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_has_the_files_of_flux_1_dev(home: Path) -> None:
    names = set(digests(home))

    assert "model_index.json" in names
    assert {name.partition("/")[0] for name in names} - {"model_index.json"} == {
        "scheduler",
        "text_encoder",
        "text_encoder_2",
        "tokenizer",
        "tokenizer_2",
        "transformer",
        "vae",
    }


def test_kontexts_has_a_transformer_of_its_own_and_nothing_else(home: Path, kontext_home: Path) -> None:
    ours, others = digests(kontext_home), digests(home)

    assert set(ours) == {name for name in others if name.startswith("transformer/")}
    assert ours["transformer/config.json"] == others["transformer/config.json"]
    assert ours["transformer/diffusion_pytorch_model.safetensors"] not in others.values()


def test_is_small(home: Path, kontext_home: Path) -> None:
    assert sum(path.stat().st_size for place in (home, kontext_home) for path in place.rglob("*")) < 12e6


def test_is_made_once(folder: Path, home: Path) -> None:
    before = {path: path.stat().st_mtime_ns for path in home.rglob("*")}

    assert ensure_miniature(folder) == home
    assert {path: path.stat().st_mtime_ns for path in home.rglob("*")} == before


def test_is_the_same_wherever_it_is_made(home: Path, kontext_home: Path, tmp_path: Path) -> None:
    torch.manual_seed(99)

    assert digests(ensure_miniature(tmp_path / "not" / "there" / "yet")) == digests(home)
    assert digests(ensure_kontext(tmp_path / "nor" / "this")) == digests(kontext_home)


def test_leaves_torchs_random_numbers_alone(tmp_path: Path) -> None:
    before = torch.get_rng_state()

    ensure_miniature(tmp_path)
    ensure_kontext(tmp_path)

    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("ensure", [ensure_miniature, ensure_kontext])
def test_a_failed_making_leaves_nothing(tmp_path: Path, ensure: Callable[[Path], Path]) -> None:
    with full_disk_after(1_000_000), pytest.raises(Exception, match=r"[Ll]arge"):
        ensure(tmp_path)

    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_does_no_harm(home: Path, tmp_path: Path) -> None:
    (tmp_path / ".miniature-killed" / home.name / "vae").mkdir(parents=True)

    assert digests(ensure_miniature(tmp_path)) == digests(home)


def test_two_processes_make_one(twins: tuple[Path, list[Any], list[str]], home: Path, kontext_home: Path) -> None:
    folder, told, _ = twins

    assert {path.name for path in folder.iterdir()} == {home.name, kontext_home.name}
    assert [one[0] for one in told] == [str(folder / home.name)] * 2
    assert digests(folder / home.name) == digests(home)
    assert digests(folder / kontext_home.name) == digests(kontext_home)


def test_two_processes_render_the_same_picture_with_the_same_build(twins: tuple[Path, list[Any], list[str]]) -> None:
    _, (one, other), _ = twins

    assert one == other


def test_processes_log_nothing_needless_and_seek_no_network(twins: tuple[Path, list[Any], list[str]]) -> None:
    assert twins[2] == ["", ""]


@pytest.mark.parametrize("tokenizer", ["tokenizer", "tokenizer_2"])
def test_different_prompts_have_different_tokens(parts: Any, tokenizer: str) -> None:
    prompts = ["a red fox", "a red box", "fox red a", "ein Fuchs", "狐", "犬", "🦊", "1 fox", "2 fox"]

    tokens = {tuple(getattr(parts, tokenizer)(prompt)["input_ids"]) for prompt in prompts}

    assert len(tokens) == len(prompts)


def test_encoders_take_as_many_tokens_as_those_of_flux(parts: Any) -> None:
    assert (parts.tokenizer.model_max_length, parts.tokenizer_2.model_max_length) == (77, 512)


def test_has_the_architecture_of_flux_1_dev(parts: Any) -> None:
    config = parts.transformer.config

    assert config.guidance_embeds
    assert config.in_channels == 4 * parts.vae.config.latent_channels == 64
    assert parts.scheduler.config.use_dynamic_shifting
    assert len(parts.transformer.transformer_blocks) >= 1
    assert len(parts.transformer.single_transformer_blocks) >= 1
