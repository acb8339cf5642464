"""The pages' commands that download and prepare weights, and that start farms: run as they are printed."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
import urllib3
from safetensors.torch import load_file, save_file

from farm.process import child
from tests.checker_folders import concept_checker, red_classifier
from tests.docs_snippets import Snippet, executed_by, name_of, plain_lines
from tests.farms import Certificate, clean_environment, free_port, running_farm, wait_for
from tests.model_hub import running_hub
from tests.webhook_receiver import running_receiver
from workers.pipelines import miniature

pytestmark = [pytest.mark.full, pytest.mark.timeout(600)]

ROOT = Path(__file__).parents[2]
TRANSFORMER = "transformer/diffusion_pytorch_model.safetensors"
SRPO = "srpo/diffusion_pytorch_model.safetensors"
#: What FLUX.1-dev's repository holds beside the files of diffusers, and nobody needs.
SUPERFLUOUS = ("flux1-dev.safetensors", "ae.safetensors", TRANSFORMER)
RENDER = "farm render 'a red star' --size 256x256 --steps 2 --out out"


class Shell:
    """Runs the pages' commands in a folder, which stands for the machine with its folder of models."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.models = folder / "models"
        self._environment = clean_environment() | {
            "PATH": f"{Path(sys.executable).parent}:/usr/bin:/bin",
            "HF_HOME": str(folder / "hub"),
        }

    def run(self, line: str, **environment: str) -> str:
        """Return what a command prints; it has to succeed."""
        done = subprocess.run(
            ["bash", "-c", self._here(line)],
            cwd=self.folder,
            env=self._environment | environment,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        assert done.returncode == 0, (line, done.stdout, done.stderr)
        return done.stdout + done.stderr

    @contextmanager
    def farm(self, line: str, **environment: str) -> Iterator[str]:
        """Start the farm of a command on another port, and yield its address as it prints it."""
        program = self._here(line).replace("farm up", f"exec farm up --port {free_port()}")
        with (self.folder / "farm.log").open("wb") as log:
            process = subprocess.Popen(
                child.command("bash", "-c", program),
                cwd=self.folder,
                env=self._environment | environment,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
            )
        assert process.stdout is not None
        ready, _, url = process.stdout.readline().strip().partition(": ")
        assert ready == "farm ready", (self.folder / "farm.log").read_text()[-3000:]
        try:
            yield url
        finally:
            process.terminate()
            assert process.wait(60) == 0
            process.stdout.close()

    def _here(self, line: str) -> str:
        return line.replace(".venv/bin/", "").replace("/models/", f"{self.models}/")


@pytest.fixture
def shell(tmp_path: Path) -> Shell:
    return Shell(tmp_path)


def lines_of(test: str) -> list[str]:
    """Return the commands that a test of this module executes, without those that install packages."""
    lines = [line for snippet in executed_by(test) for line in plain_lines(snippet.code)]
    return [line for line in lines if "pip install" not in line]


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of a hub that has small weights of every repository."""
    folder = tmp_path_factory.mktemp("hub")
    flux, srpo = folder / "FLUX.1-dev", folder / "SRPO"
    shutil.copytree(miniature.HOME, flux)
    srpo.mkdir()
    tensors = load_file(flux / TRANSFORMER)
    save_file({name: tensor * 1.1 for name, tensor in tensors.items()}, srpo / Path(TRANSFORMER).name)
    for name in SUPERFLUOUS[:2]:
        (flux / name).write_bytes(b"of no use here")
    repositories = {
        "tencent/SRPO": srpo,
        "black-forest-labs/FLUX.1-dev": flux,
        "AdamCodd/vit-base-nsfw-detector": red_classifier(folder / "vit"),
        "CompVis/stable-diffusion-safety-checker": concept_checker(folder / "clip"),
    }
    for checker in list(repositories.values())[2:]:
        (checker / "pytorch_model.bin").write_bytes(b"the same weights again")
    with running_hub(repositories) as url:
        yield url


@pytest.fixture
def weights(shell: Shell) -> dict[str, str]:
    """Return the settings of small weights in the folder of models."""
    flux, srpo = shell.models / "FLUX.1-dev", shell.models / SRPO
    shutil.copytree(miniature.HOME, flux)
    srpo.parent.mkdir()
    (flux / TRANSFORMER).rename(srpo)
    return {"FARM_FLUX_DIR": str(flux), "FARM_SRPO_FILE": str(srpo)}


def test_real_weights_are_downloaded_and_served(shell: Shell, hub: str) -> None:
    *downloads, start = lines_of("test_real_weights_are_downloaded_and_served")
    assert len(downloads) == 3

    for line in downloads:
        shell.run(line, HF_ENDPOINT=hub)

    assert [name for name in SUPERFLUOUS if (shell.models / "FLUX.1-dev" / name).exists()] == []
    assert not (shell.models / "nsfw" / "pytorch_model.bin").exists()
    with shell.farm(start) as url:
        assert "out/a-red-star" in shell.run(RENDER, FARM_URL=url)


def test_a_checker_is_downloaded_and_found(shell: Shell, hub: str) -> None:
    lines = lines_of("test_a_checker_is_downloaded_and_found")
    assert len(lines) == 4

    for line in lines:
        printed = " ".join(shell.run(line, HF_ENDPOINT=hub, FARM_PIPELINE="flux").split())
        if "farm doctor" in line:
            assert re.search(r"✓ safety [^✗!]*/models/(nsfw|clip)", printed), printed


def test_weights_are_converted_and_verified(shell: Shell, weights: dict[str, str]) -> None:
    convert, verify = lines_of("test_weights_are_converted_and_verified")

    shell.run(convert, **weights)
    converted = shell.models / "srpo" / "diffusion_pytorch_model.bf16.safetensors"
    verified = shell.run(verify, **weights | {"FARM_SRPO_FILE": str(converted)})

    assert re.search(rf"✓ digest .*{converted.name}: sha256 \w+, as on record", " ".join(verified.split()))


def test_lora_files_are_fused_at_a_start(shell: Shell) -> None:
    layer = "transformer_blocks.0.attn.to_q"
    rows, columns = load_file(miniature.HOME / TRANSFORMER)[f"{layer}.weight"].shape
    shell.models.mkdir()
    for name in ("ink", "lighting"):
        pair = {"lora_A": torch.randn(2, columns), "lora_B": torch.randn(rows, 2)}
        update = {f"transformer.{layer}.{part}.weight": matrix for part, matrix in pair.items()}
        save_file(update, shell.models / f"{name}.safetensors")
    (start,) = lines_of("test_lora_files_are_fused_at_a_start")

    with shell.farm(start) as url:
        changed = build_of(url)
    with shell.farm("farm up") as url:
        assert build_of(url) != changed


def build_of(url: str) -> str:
    """Return the digest of what the warm workers of a farm compute with."""
    workers = urllib3.request("GET", f"{url}/farm/v1/workers").json()["workers"]
    (build,) = {worker["build"] for worker in workers} - {None}
    return str(build)


def test_levels_are_calibrated_and_used(shell: Shell) -> None:
    calibrate, start = lines_of("test_levels_are_calibrated_and_used")

    printed = shell.run(f"{calibrate} --images 1 --order 1 --size 256x256")

    assert "20 steps" in printed
    assert "50 steps" in printed
    assert (shell.folder / "levels.jpeg").stat().st_size > 1000
    with shell.farm(start) as url:
        shell.run(f"{RENDER} --acceleration high", FARM_URL=url)


@pytest.mark.parametrize(
    "snippet",
    executed_by("test_a_farm_with_keys_over_https_is_started_as_the_pages_say"),
    ids=name_of,
)
def test_a_farm_with_keys_over_https_is_started_as_the_pages_say(
    shell: Shell, certificate: Certificate, snippet: Snippet
) -> None:
    shutil.copy(certificate.chain, shell.folder / "cert.pem")
    shutil.copy(certificate.key, shell.folder / "key.pem")
    create, *limits, start = plain_lines(snippet.code)

    key = shell.run(create).splitlines()[0]
    for line in limits:
        shell.run(line)
    with (
        shell.farm(start, FARM_PIPELINE="simulated") as url,
        urllib3.PoolManager(ca_certs=str(certificate.authority)) as http,
    ):
        jobs = re.sub("//[^:]+", "//127.0.0.1", url) + "/farm/v1/jobs"
        with_key = {"Authorization": f"Bearer {key}"}
        answers = [http.request("GET", jobs, headers=headers) for headers in ({}, with_key)]

    assert url.startswith("https://")
    assert [answer.status for answer in answers] == [401, 200]


def test_a_farm_with_traces_is_started_as_the_page_says(shell: Shell) -> None:
    (start,) = lines_of("test_a_farm_with_traces_is_started_as_the_page_says")
    with running_receiver() as collector:
        here = start.replace("http://127.0.0.1:4318", collector.url)
        with shell.farm(here, FARM_PIPELINE="simulated", OTEL_BSP_SCHEDULE_DELAY="50") as url:
            shell.run(RENDER, FARM_URL=url)
            wait_for(lambda: any(b"render job" in one.body for one in collector.at("/v1/traces")), what="a span")


def test_a_farm_is_set_up_and_upgraded_by_the_runbook(shell: Shell) -> None:
    shutil.copytree(ROOT / "deploy", shell.folder / "deploy")
    with (
        running_farm(shell.folder / ".farm", FARM_WEBHOOK_ALLOW="127.0.0.1/32") as farm,
        running_receiver() as receiver,
    ):
        settings = {"FARM_URL": farm.url, "FARM_PIPELINE": "simulated"}
        (worker,) = [worker["id"] for worker in farm.call("GET", "/farm/v1/workers").json["workers"]]
        words = {"RECEIVER": receiver.url, "BACKUP": "backup", "WORKER": worker}
        for line in lines_of("test_a_farm_is_set_up_and_upgraded_by_the_runbook"):
            shell.run(re.sub(r"\b[A-Z]{3,}\b", lambda word: words[word[0]], line), **settings)

        assert receiver.received[0].json["type"] == "test"
        assert list((shell.folder / "backup").iterdir())
        wait_for(lambda: not farm.worker_pids(), what="a drained worker")
