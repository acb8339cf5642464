"""The bundled miniature: small, with FLUX.1-dev's layout, named as what it is, reproducible."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from farm.weights.checkpoints import lacking
from workers.pipelines import miniature

pytestmark = pytest.mark.slow

FILES = [path for path in miniature.HOME.rglob("*") if path.is_file()]

#: Waits for its start signal, loads the miniature, renders, and tells; a look at the network ends it.
PROCESS = """
import hashlib, json, sys

def no_network(event, arguments):
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname"):
        raise SystemExit(f"{event} {arguments}")

sys.addaudithook(no_network)
from farm.domain.request import ImageRequest
from workers.pipelines.loading import load_miniature

print("ready", flush=True)
sys.stdin.readline()
pipeline = load_miniature()
pipeline.warm_up()
requests = [ImageRequest(model, "a red star " * 9, 256, 320, 3, 4.5, 7) for model in ("srpo", "kontext-text-to-image")]
digest = hashlib.sha256(b"".join(rendered.image.tobytes() for rendered in pipeline.render(requests, lambda *_: True)))
print(json.dumps([pipeline.build, digest.hexdigest()]))
"""


@pytest.fixture(scope="module")
def twins() -> tuple[list[Any], list[str]]:
    """Run two processes that render at once, and return their output and logs."""
    command = [sys.executable, "-c", PROCESS]
    pipe = subprocess.PIPE
    pair = [subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=pipe, text=True) for _ in range(2)]
    for process in pair:
        assert process.stdout is not None
        process.stdout.readline()
    for process in pair:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    result = [process.communicate(timeout=60) for process in pair]
    return [json.loads(out or "null") for out, _ in result], [err for _, err in result]


def test_has_the_files_of_flux_1_dev_and_no_editor() -> None:
    assert lacking(miniature.HOME) == []
    assert not miniature.kontext().exists()


def test_is_small_enough_to_come_with_the_farm() -> None:
    assert sum(path.stat().st_size for path in FILES) < 25e6


@pytest.mark.parametrize("path", [path for path in FILES if path.suffix == ".safetensors"], ids=lambda p: p.parent.name)
def test_every_file_of_weights_says_what_it_is(path: Path) -> None:
    with safe_open(path, framework="pt") as opened:
        result = opened.metadata()

    assert result["name"] == "srpo-farm miniature"
    assert "no weight in common with FLUX.1 or SRPO" in result["not"]


@pytest.mark.parametrize("path", [path for path in FILES if path.name == "config.json"], ids=lambda p: p.parent.name)
def test_every_description_says_so_too(path: Path) -> None:
    assert json.loads(path.read_text())["_miniature"]["name"] == "srpo-farm miniature"


def test_two_processes_render_the_same_image_with_the_same_build(twins: tuple[list[Any], list[str]]) -> None:
    (one, other), _ = twins

    assert one == other


def test_processes_log_nothing_needless_and_seek_no_network(twins: tuple[list[Any], list[str]]) -> None:
    assert twins[1] == ["", ""]


@pytest.mark.parametrize("tokenizer", ["tokenizer", "tokenizer_2"])
def test_different_prompts_have_different_tokens(parts: Any, tokenizer: str) -> None:
    prompts = ["a red fox", "a red box", "fox red a", "ein Fuchs", "狐", "犬", "🦊", "1 fox", "2 fox"]

    tokens = {tuple(getattr(parts, tokenizer)(prompt)["input_ids"]) for prompt in prompts}

    assert len(tokens) == len(prompts)


def test_clip_takes_as_many_tokens_as_that_of_flux_and_t5_fewer(parts: Any) -> None:
    assert (parts.tokenizer.model_max_length, parts.tokenizer_2.model_max_length) == (77, 32)


def test_has_the_architecture_of_flux_1_dev(parts: Any) -> None:
    config = parts.transformer.config

    assert config.guidance_embeds
    assert config.in_channels == 4 * parts.vae.config.latent_channels == 64
    assert parts.scheduler.config.use_dynamic_shifting
    assert len(parts.transformer.transformer_blocks) >= 1
    assert len(parts.transformer.single_transformer_blocks) >= 1
