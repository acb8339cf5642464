"""The doctor's judgements, on given measurements: every threshold and every fault."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import ssl
import threading
from collections.abc import Callable
from contextlib import nullcontext
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from farm.cli.findings import line
from farm.clock import monotonic
from farm.doctor import machine, safety, storage, weights, work
from farm.doctor.access import Address
from farm.doctor.clocks import clock_finding
from farm.doctor.examination import Examination, within
from farm.doctor.finding import Finding, Mark, good, refused, wrong
from farm.doctor.jobstore import at_rest, connections_finding, memory_finding
from farm.doctor.machine import device_finding, disk_finding
from farm.domain.errors import ConfigurationError, StorageUnavailable
from farm.jobstore.clock_skew import ClockSkew
from farm.jobstore.stats import Queue, Worker
from farm.process import placement, toolchain
from farm.process.hardware import Card, Torch
from farm.settings import Settings
from farm.storage.probe import CONTENT, Inconsistent
from farm.weights.checkpoints import KONTEXT_WEIGHTS
from tests.farms import Certificate, free_port
from tests.nvidia import nvidia_smi
from workers.safety import checker_for

GIB = 2**30
CUDA, NO_CUDA = Torch("2.13.0", "13.0"), Torch("2.13.0+cpu", None)
CARD = Card(0, "GPU-0a", "NVIDIA H100 80GB HBM3", 85_520_809_984, 84_928_364_544)
OTHER = Card(1, "GPU-1b", "NVIDIA GB10")
ALL = frozenset({"flux-1-dev-non-commercial", "tencent-srpo"})


def names(finding: Finding, mark: Mark, *words: str) -> bool:
    """Return True if the finding has this mark, contains these words and, if it is not good, a remedy."""
    result = f"{finding.text} → {finding.remedy}"
    return (
        finding.mark is mark and all(word in result for word in words) and (mark is Mark.GOOD or bool(finding.remedy))
    )


def test_a_configuration_error_splits_into_fault_and_remedy() -> None:
    message = "FARM_LEASE is not a setting; did you mean FARM_LEASE_SECONDS?"
    assert refused("settings", message) == Finding(
        "settings", Mark.WRONG, "FARM_LEASE is not a setting", "did you mean FARM_LEASE_SECONDS?"
    )


def test_a_line_says_what_is_wrong_and_below_it_what_mends_it() -> None:
    assert line(good("disk", "all well")) == "✓ disk         all well"
    assert line(wrong("disk", "full", "make room")) == f"✗ disk         full\n{' ' * 15}→ make room"


def test_a_check_that_fails_is_a_finding_of_its_own_and_keeps_what_it_found() -> None:
    def check() -> object:
        yield good("x", "this")
        raise ZeroDivisionError("that")

    found = within("x", check)  # type: ignore[arg-type]

    assert [(finding.mark, finding.text) for finding in found] == [
        (Mark.GOOD, "this"),
        (Mark.WRONG, "this check failed: ZeroDivisionError: that"),
    ]


def test_a_check_that_hangs_is_left_behind() -> None:
    released = threading.Event()

    def check() -> Finding:
        released.wait(30)
        return good("x", "late")

    began = monotonic()
    (found,) = within("x", check, seconds=0.05)
    released.set()

    assert names(found, Mark.WRONG, "did not finish within")
    assert monotonic() - began < 5


def test_an_old_python_is_named() -> None:
    assert names(machine.python((3, 10, 12)), Mark.WRONG, "3.10.12", "apt install")
    assert machine.python((3, 11, 0)).mark is Mark.GOOD


@pytest.mark.parametrize(
    ("free", "mark"),
    [(GIB - 1, Mark.WRONG), (GIB, Mark.NOTE), (5 * GIB - 1, Mark.NOTE), (5 * GIB, Mark.GOOD)],
)
def test_a_disk_that_is_nearly_full_is_named(free: int, mark: Mark) -> None:
    assert names(disk_finding(Path("/data"), free), mark, "/data", f"{free / 1e9:.1f} GB")


@pytest.mark.parametrize(
    ("free", "total", "marks"),
    [(999, 5000, [Mark.WRONG]), (1000, 5000, []), (0, 0, [])],
    ids=["few", "enough", "btrfs"],
)
def test_a_disk_without_inodes_is_named(free: int, total: int, marks: list[Mark]) -> None:
    found = list(machine.inodes_finding(Path("/data"), free=free, total=total))

    assert [finding.mark for finding in found] == marks
    assert all("999 inodes free for /data, of 5000" in finding.text and finding.remedy for finding in found)


def test_processes_that_differ_are_named() -> None:
    apis = {"api a:1": {"FARM_RATE_LIMIT": "60"}, "api b:1": {"FARM_RATE_LIMIT": "None"}}

    (found,) = work.processes(apis)

    assert names(found, Mark.WRONG, "FARM_RATE_LIMIT is '60' of api a:1, and 'None' of api b:1", "Redis of its own")
    assert list(work.processes({"api a:1": apis["api a:1"]})) == []


def test_the_remedy_for_a_full_storage_is_space() -> None:
    full = StorageUnavailable(detail=f"put: {os.strerror(errno.ENOSPC)}")

    assert "inodes" in storage.remedy(full, Settings(), Path("/data"))
    assert "writable" in storage.remedy(StorageUnavailable(detail="put"), Settings(), Path("/data"))


@pytest.mark.parametrize(
    ("used", "limit", "mark"),
    [(11, 839, Mark.NOTE), (11, 840, Mark.GOOD), (900, 1000, Mark.NOTE), (899, 1000, Mark.GOOD)],
)
def test_few_connections_are_named_with_the_numbers(used: int, limit: int, mark: Mark) -> None:
    finding = connections_finding(used, limit)

    assert names(finding, mark, f"{used} of {limit}")
    assert ("730" in finding.text) == (mark is Mark.NOTE)


def test_a_folder_that_is_not_there_is_judged_by_the_disk_that_it_would_lie_on(tmp_path: Path) -> None:
    (found,) = machine.disk(tmp_path / "no" / "such")
    assert str(tmp_path) in found.text


@pytest.mark.parametrize(("free", "mark"), [(GIB // 4 - 1, Mark.WRONG), (GIB - 1, Mark.NOTE), (GIB, Mark.GOOD)])
def test_little_memory_is_named(free: int, mark: Mark) -> None:
    assert names(machine.memory_finding(free), mark, "free")


@pytest.mark.parametrize(
    ("setting", "cards", "torch", "real", "mark", "word"),
    [
        (None, [], NO_CUDA, False, Mark.GOOD, "CPU"),
        (None, [CARD], NO_CUDA, False, Mark.GOOD, "CPU"),
        (None, [CARD], CUDA, True, Mark.GOOD, "cuda:0: NVIDIA H100 80GB HBM3, 84.9 GB of 85.5 GB free; torch"),
        (None, [CARD, OTHER], CUDA, True, Mark.GOOD, "free; cuda:1: NVIDIA GB10; torch"),
        (None, [CARD], NO_CUDA, True, Mark.WRONG, "pip install --force-reinstall 'torch==2.13.0'"),
        (None, [], CUDA, True, Mark.NOTE, "no NVIDIA card"),
        ("cpu", [CARD], CUDA, True, Mark.NOTE, "as FARM_DEVICE says"),
        ("cuda:1", [CARD, OTHER], CUDA, False, Mark.GOOD, "cuda:1"),
        ("cuda:1", [CARD], CUDA, True, Mark.WRONG, "this machine has cpu, cuda:0"),
        ("cuda", [], CUDA, False, Mark.WRONG, "this machine has cpu"),
        ("cuda:x", [CARD], CUDA, False, Mark.WRONG, "is not a device"),
        ("cpu:0", [CARD], CUDA, False, Mark.WRONG, "is not a device"),
        ("mps", [], CUDA, False, Mark.WRONG, "is not a device"),
    ],
)
def test_the_device(setting: str | None, cards: list[Card], torch: Torch, real: bool, mark: Mark, word: str) -> None:
    assert names(device_finding(setting, cards=cards, torch=torch, real_weights=real), mark, word)


@pytest.mark.parametrize(("free", "word"), [(None, "3 workers"), (6_000_000_000, "2 workers, as memory allows")])
def test_the_device_says_how_many_workers_farm_up_starts(
    monkeypatch: pytest.MonkeyPatch, free: int | None, word: str
) -> None:
    monkeypatch.setattr(placement, "cores", lambda: 3)
    monkeypatch.setattr(placement, "free_memory", lambda: free)

    found = machine.device(Settings(), alone=True)

    assert names(found, Mark.GOOD, "the CPU")
    assert found.text.endswith(f"farm up starts {word}")


@pytest.mark.parametrize(
    ("choice", "cards", "lacks", "marks", "remedy"),
    [
        ("auto", [], True, [], ""),
        ("auto", [CARD], False, [Mark.GOOD], ""),
        ("auto", [CARD], True, [Mark.NOTE], "sudo apt install what cuda needs"),
        ("on", [], True, [Mark.WRONG], "sudo apt install what cpu needs"),
        ("off", [CARD], True, [], ""),
    ],
)
def test_a_missing_compiler(
    monkeypatch: pytest.MonkeyPatch, choice: Any, cards: list[Card], lacks: bool, marks: list[Mark], remedy: str
) -> None:
    monkeypatch.setattr(machine, "usable_cards", lambda _: cards)
    lacking = "a compiler (sudo apt install what {} needs)"
    monkeypatch.setattr(toolchain, "missing", lambda kind: lacking.format(kind) if lacks else None)

    found = list(machine.compiler(Settings(compile=choice)))

    assert [finding.mark for finding in found] == marks
    assert "".join(finding.remedy for finding in found) == remedy


def test_a_driver_that_fails_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nvidia_smi(tmp_path, monkeypatch, "Failed to initialize NVML: Driver/library version mismatch", status=18)
    (found,) = within("device", lambda: machine.device(Settings(kontext_dir=tmp_path), alone=True))
    assert names(found, Mark.WRONG, "library version mismatch", "FARM_DEVICE=cpu")


@pytest.mark.parametrize(
    ("result", "mark"),
    [
        ("Valkey server v=9.1.2 sha=00000000:1 malloc=libc", Mark.GOOD),
        ("Redis server v=7.0.15 sha=00000000:0 malloc=jemalloc", Mark.GOOD),
        ("Redis server v=6.2.14 sha=00000000:0 malloc=jemalloc", Mark.WRONG),
        ("Valkey server v=7.1.0 sha=00000000:0 malloc=jemalloc", Mark.WRONG),
    ],
)
def test_a_server_that_could_be_started_is_judged_by_its_version(result: str, mark: Mark) -> None:
    assert names(at_rest(result), mark, result.split()[0])


@pytest.mark.parametrize(
    ("used", "limit", "mark"),
    [
        (700, 1000, Mark.GOOD),
        (701, 1000, Mark.NOTE),
        (799, 1000, Mark.NOTE),
        (800, 1000, Mark.WRONG),
        (5, 0, Mark.NOTE),
    ],
)
def test_the_memory_of_redis(used: int, limit: int, mark: Mark) -> None:
    assert memory_finding(used, limit, own=True).mark is mark


@pytest.mark.parametrize(
    ("apart", "blur", "mark"),
    [
        (0.9, 0, Mark.GOOD),
        (-1.1, 0, Mark.NOTE),
        (1.9, 1, Mark.GOOD),
        (30.0, 0, Mark.NOTE),
        (-31.0, 0, Mark.WRONG),
        (31.0, 2, Mark.NOTE),
    ],
)
def test_clocks_that_differ_are_named(apart: float, blur: float, mark: Mark) -> None:
    assert names(clock_finding("Redis's clock", ClockSkew(apart, blur=blur)), mark, "Redis's clock")


def test_a_clock_says_which_way_it_is_off() -> None:
    assert "40.0 s ahead of this machine's" in clock_finding("S3's clock", ClockSkew(40, blur=0)).text
    assert "40.0 s behind this machine's" in clock_finding("S3's clock", ClockSkew(-40, blur=0)).text


def worker(state: str = "warm", *, silent: float = 1, jobs: int = 0, models: str = "srpo") -> Worker:
    facts = {"state": state, "models": models, "weights": "miniature", "version": "0.1.0", "host": "h", "pid": "7"}
    return Worker("w", facts | {"jobs": str(jobs)}, silent)


def about_workers(*found: Worker, are_expected: bool = True) -> list[Finding]:
    return list(work.workers(found, lease_seconds=15, are_expected=are_expected))


def test_workers_by_what_they_do() -> None:
    (warm,) = about_workers(worker(), worker("loading"))
    (loading,) = about_workers(worker("loading"))
    (none,) = about_workers()
    (not_yet,) = about_workers(are_expected=False)

    assert names(warm, Mark.GOOD, "1 warm, 1 loading: miniature for srpo")
    assert names(loading, Mark.NOTE, "none is warm yet, 1 loading")
    assert names(none, Mark.WRONG, "none", "farm worker")
    assert names(not_yet, Mark.NOTE, "none", "farm up")


def test_a_silent_worker_is_named_beside_a_warm_one() -> None:
    silent, warm = about_workers(worker(silent=16), worker(silent=15))

    assert names(silent, Mark.WRONG, "no heartbeat from w for 16 s", "on h: kill -KILL 7")
    assert warm.mark is Mark.GOOD


def test_workers_of_another_version_are_worth_knowing() -> None:
    other = Worker("w", worker().facts | {"version": "9"}, 1)
    assert names(about_workers(other)[1], Mark.NOTE, "version 9")


@pytest.mark.parametrize(
    ("oldest", "able", "mark", "word"),
    [
        (60, [worker(jobs=4)], Mark.GOOD, "3 of srpo (normal) waiting, the oldest for 60 s"),
        (9, [worker()], Mark.GOOD, "waiting"),
        (11, [worker()], Mark.WRONG, "although w is idle"),
        (1, [], Mark.WRONG, "no warm worker serves this model"),
        (1, [worker(models="kontext")], Mark.WRONG, "no warm worker serves this model"),
    ],
)
def test_a_queue_that_is_stuck_is_named(oldest: float, able: list[Worker], mark: Mark, word: str) -> None:
    backlog = Queue("srpo", "normal", jobs=3, oldest_seconds=oldest, startable=3)
    assert names(work.queue_finding(backlog, able), mark, word)


def test_overdue_webhooks_are_named_with_the_remedy() -> None:
    assert work.webhooks_finding(3, 60, couriers=1).mark is Mark.GOOD
    assert names(work.webhooks_finding(3, 61, couriers=1), Mark.WRONG, "61 s overdue", "farm worker --webhooks")
    assert names(work.webhooks_finding(3, 0, couriers=0), Mark.NOTE, "webhook workers: 0")


def test_overdue_preparations_are_named_with_the_remedy() -> None:
    assert work.preparation_finding(0, 0, preparers=0).mark is Mark.GOOD
    assert work.preparation_finding(3, 60, preparers=1).mark is Mark.GOOD
    assert names(work.preparation_finding(3, 61, preparers=1), Mark.WRONG, "for 61 s", "farm worker --webhooks")
    assert names(work.preparation_finding(3, 1, preparers=0), Mark.NOTE, "to prepare: 3", "farm worker --webhooks")


@pytest.mark.parametrize(
    ("host", "port", "base", "expected"),
    [
        (None, None, None, "127.0.0.1:8000"),
        (None, None, "http://127.0.0.1:9000", "127.0.0.1:9000"),
        (None, None, "https://[::1]:9443", "[::1]:9443"),
        (None, 8001, "http://127.0.0.1:9000", "127.0.0.1:8001"),
        ("0.0.0.0", None, "http://127.0.0.1:9000", "0.0.0.0:8000"),
    ],
)
def test_where_the_api_is_looked_for(host: str | None, port: int | None, base: str | None, expected: str) -> None:
    assert str(Address.of(host, port, base)) == expected


@pytest.mark.parametrize(("setting", "works"), [(None, False), ("bundled", False), ("off", True)])
def test_the_doctor_and_the_workers_agree_on_the_checker_beside_real_weights(setting: Any, works: bool) -> None:
    settings = Settings(safety=setting, kontext_dir=Path("/weights"))
    assert (safety.safety(settings).mark is not Mark.WRONG) == works
    with nullcontext() if works else pytest.raises(ConfigurationError):
        checker_for(settings, KONTEXT_WEIGHTS)


def test_the_folder_of_the_enhancer_is_looked_into(tmp_path: Path) -> None:
    settings = Settings(pipeline="simulated", enhancer_dir=tmp_path / "writer")

    def look() -> Finding:
        examination = Examination(settings, (), data_dir=tmp_path / "farm")
        (found,) = [found for found in examination.findings() if found.name == "enhancer"]
        return found

    assert names(look(), Mark.WRONG, "lacks config.json, tokenizer_config.json, model.safetensors")
    (tmp_path / "writer").mkdir()
    for name in ("config.json", "tokenizer_config.json", "model.safetensors"):
        (tmp_path / "writer" / name).write_bytes(b"x" * 1000)
    assert names(look(), Mark.GOOD, "a language model, 0.0 MB")


#: The tensors by which the doctor knows a transformer of one double and one single block.
TRANSFORMER = (
    *("x_embedder.weight", "context_embedder.weight", "proj_out.weight"),
    *("transformer_blocks.0.attn.to_q.weight", "single_transformer_blocks.0.attn.to_q.weight"),
)


class Checkpoints:
    """Small files in the formats of the real ones: FLUX.1-dev's folder, its second encoder in two files, and SRPO's."""

    def __init__(self, folder: Path, name: str = "FLUX.1-dev") -> None:
        self.flux, self.srpo = folder / name, folder / "srpo.safetensors"
        for name in (
            *("model_index.json", "scheduler/scheduler_config.json", "transformer/config.json", "vae/config.json"),
            *("text_encoder/config.json", "text_encoder_2/config.json"),
            *("tokenizer/tokenizer_config.json", "tokenizer_2/tokenizer_config.json"),
        ):
            (self.flux / name).parent.mkdir(parents=True, exist_ok=True)
            (self.flux / name).write_text("{}")
        self.first, self.second = (self.flux / f"text_encoder_2/model-0000{n}-of-00002.safetensors" for n in (1, 2))
        for path in self.files:
            save_file({f"of {path.name}": np.arange(8, dtype=np.float32)}, path)
        save_file({name: np.arange(8, dtype=np.float32) for name in TRANSFORMER}, self.srpo)
        index = {"weight_map": {f"of {path.name}": path.name for path in (self.first, self.second)}}
        (self.flux / "text_encoder_2/model.safetensors.index.json").write_text(json.dumps(index))

    @property
    def files(self) -> list[Path]:
        weights_of = {"text_encoder": "model", "vae": "diffusion_pytorch_model"}
        single = [self.flux / part / f"{stem}.safetensors" for part, stem in weights_of.items()]
        return [*single, self.first, self.second]

    @property
    def settings(self) -> Settings:
        return Settings(flux_dir=self.flux, srpo_file=self.srpo)

    def findings(self) -> list[Finding]:
        return list(weights.weights(self.settings))

    def finding(self) -> Finding:
        (found,) = self.findings()
        return found


@pytest.fixture
def checkpoints(tmp_path: Path) -> Checkpoints:
    return Checkpoints(tmp_path)


def test_a_signed_address_that_does_not_work_is_not_shown() -> None:
    with pytest.raises(Inconsistent) as refused:
        storage.fetch(f"http://127.0.0.1:{free_port()}/image?X-Amz-Signature=secret")

    assert "signed URLs do not work" in str(refused.value)
    assert "secret" not in str(refused.value)


class Bucket(BaseHTTPRequestHandler):
    """Sends what the doctor has written."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(CONTENT)

    def log_message(self, *args: object) -> None:
        """Say nothing."""


def test_signed_urls_are_tried_with_the_authorities_of_boto3(
    certificate: Certificate, monkeypatch: pytest.MonkeyPatch
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate.chain, certificate.key)
    with HTTPServer(("127.0.0.1", 0), Bucket) as server:
        server.socket = context.wrap_socket(server.socket, server_side=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        try:
            url = f"https://127.0.0.1:{server.server_port}/image"
            monkeypatch.delenv("AWS_CA_BUNDLE", raising=False)
            with pytest.raises(Inconsistent, match="not trusted"):
                storage.fetch(url)

            monkeypatch.setenv("AWS_CA_BUNDLE", str(certificate.authority))
            storage.fetch(url)
        finally:
            server.shutdown()
            thread.join()


def test_whole_weights_are_good(checkpoints: Checkpoints) -> None:
    assert names(checkpoints.finding(), Mark.GOOD, "5 files", "complete by their headers")


def test_the_miniature_and_the_simulated_pipeline_need_none() -> None:
    assert [found.mark for found in weights.weights(Settings())] == [Mark.GOOD]
    assert [found.mark for found in weights.weights(Settings(pipeline="simulated", flux_dir=Path("/no")))] == [
        Mark.GOOD
    ]


def test_one_checkpoint_without_the_other_is_named(checkpoints: Checkpoints) -> None:
    (found,) = weights.weights(Settings(srpo_file=checkpoints.srpo))
    assert names(found, Mark.WRONG, "FARM_SRPO_FILE needs FARM_FLUX_DIR", "set FARM_FLUX_DIR")


class Kontext(Checkpoints):
    """The same as Kontext's folder, with a transformer."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, "FLUX.1-Kontext-dev")
        self.transformer = self.flux / "transformer/diffusion_pytorch_model.safetensors"
        save_file({"of the transformer": np.arange(8, dtype=np.float32)}, self.transformer)

    @property
    def settings(self) -> Settings:
        return Settings(kontext_dir=self.flux)


@pytest.fixture
def kontext(tmp_path: Path) -> Kontext:
    return Kontext(tmp_path)


def test_kontext_alone_and_beside_srpo_is_looked_at_with_its_transformer(
    checkpoints: Checkpoints, kontext: Kontext
) -> None:
    both = checkpoints.settings.model_copy(update={"kontext_dir": kontext.flux})

    assert names(kontext.finding(), Mark.GOOD, "5 files", "complete by their headers")
    assert names(next(weights.weights(both)), Mark.GOOD, "10 files")

    kontext.transformer.unlink()
    remedy = f"hf download black-forest-labs/FLUX.1-Kontext-dev --include 'transformer/*' --local-dir {kontext.flux}"
    for settings in (kontext.settings, both):
        (found,) = weights.weights(settings)
        assert names(found, Mark.WRONG, f"{kontext.transformer}: missing", remedy)


def test_half_of_srpo_is_named_beside_kontext(checkpoints: Checkpoints, kontext: Kontext) -> None:
    (found,) = weights.weights(Settings(kontext_dir=kontext.flux, flux_dir=checkpoints.flux))
    assert names(found, Mark.WRONG, "FARM_FLUX_DIR needs FARM_SRPO_FILE", "set FARM_SRPO_FILE")


def test_missing_files_of_kontext_are_named(kontext: Kontext) -> None:
    (kontext.flux / "transformer/config.json").unlink()
    assert names(kontext.finding(), Mark.WRONG, f"{kontext.flux} lacks transformer/config.json", "FLUX.1-Kontext-dev")


def test_kontext_needs_the_licence_of_flux_alone(kontext: Kontext) -> None:
    assert names(weights.licences(kontext.settings), Mark.WRONG, "FARM_ACCEPT_LICENSES=flux-1-dev-non-commercial")
    accepted = kontext.settings.model_copy(update={"accept_licenses": frozenset({"flux-1-dev-non-commercial"})})
    assert weights.licences(accepted).mark is Mark.GOOD


def test_a_missing_shard_is_named_with_the_command_that_brings_it(checkpoints: Checkpoints) -> None:
    checkpoints.second.unlink()
    shard = "text_encoder_2/model-00002-of-00002.safetensors"
    remedy = f"hf download black-forest-labs/FLUX.1-dev --include '{shard}' --local-dir {checkpoints.flux}"
    assert names(checkpoints.finding(), Mark.WRONG, f"{shard}: missing", remedy)


def test_where_no_index_says_into_what_a_part_is_divided_all_of_it_is_asked_for(checkpoints: Checkpoints) -> None:
    for path in (checkpoints.flux / "text_encoder_2").iterdir():
        path.unlink()

    description, whole = checkpoints.findings()

    assert names(description, Mark.WRONG, "lacks text_encoder_2/config.json", "--include 'text_encoder_2/config.json'")
    assert names(whole, Mark.WRONG, "text_encoder_2/model.safetensors: missing", "--include 'text_encoder_2/*'")


def test_a_missing_srpo_file_is_named(checkpoints: Checkpoints) -> None:
    checkpoints.srpo.unlink()
    remedy = f"hf download tencent/SRPO diffusion_pytorch_model.safetensors --local-dir {checkpoints.srpo.parent}"
    assert names(checkpoints.finding(), Mark.WRONG, f"{checkpoints.srpo}: missing", remedy)


def cut_off(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-4])


def with_more_behind(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b"1234")


def a_pointer(path: Path) -> None:
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9989150328\n")


def without_its_tensor(path: Path) -> None:
    save_file({"another": np.zeros(1)}, path)


@pytest.mark.parametrize(
    ("damage", "word"),
    [
        (cut_off, "bytes instead of"),
        (with_more_behind, "bytes instead of"),
        (a_pointer, "not a safetensors file (no header)"),
        (without_its_tensor, "lacks tensors that its index lists: of model-00001"),
        (lambda path: path.write_bytes(b""), "not a safetensors file (no header)"),
        (lambda path: path.write_bytes((2).to_bytes(8, "little") + b"[]"), "not a safetensors file"),
    ],
)
def test_a_damaged_file_is_named(checkpoints: Checkpoints, damage: Callable[[Path], object], word: str) -> None:
    damage(checkpoints.first)
    assert names(checkpoints.finding(), Mark.WRONG, str(checkpoints.first), word, "hf download")


def test_a_broken_index_is_named(checkpoints: Checkpoints) -> None:
    (checkpoints.flux / "text_encoder_2/model.safetensors.index.json").write_text("[]")
    (found,) = within("weights", lambda: weights.weights(checkpoints.settings))
    assert names(found, Mark.WRONG, "model.safetensors.index.json cannot be loaded", "download it again")


def test_licences_are_named_one_by_one(checkpoints: Checkpoints) -> None:
    def licences(accepted: frozenset[str]) -> Finding:
        return weights.licences(checkpoints.settings.model_copy(update={"accept_licenses": accepted}))

    assert licences(ALL).mark is Mark.GOOD
    assert names(
        licences(frozenset({"tencent-srpo"})),
        Mark.WRONG,
        "does not name flux-1-dev-non-commercial,",
        "FARM_ACCEPT_LICENSES=tencent-srpo,flux-1",
    )


def digest_of(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()


def test_digests_are_compared_with_what_the_downloader_left(checkpoints: Checkpoints) -> None:
    notes = checkpoints.flux / ".cache/huggingface/download/text_encoder_2"
    notes.mkdir(parents=True)
    for path in (checkpoints.first, checkpoints.second):
        (notes / f"{path.name}.metadata").write_text(f"{'c' * 40}\n{digest_of(path)}\n1763700000.0\n")
    checkpoints.second.write_bytes(checkpoints.second.read_bytes()[:-1] + b"!")
    read: list[int] = []

    found = {f.text.partition(": ")[0]: f for f in weights.digests(weights.files_of(checkpoints.settings), read.append)}

    assert names(found[str(checkpoints.first)], Mark.GOOD, "as on record")
    assert names(found[str(checkpoints.second)], Mark.WRONG, "is on record", "hf download")
    assert found[str(checkpoints.files[0])].mark is Mark.NOTE
    assert names(found[str(checkpoints.srpo)], Mark.WRONG, "06e73a79")
    assert sum(read) == sum(path.stat().st_size for path in (*checkpoints.files, checkpoints.srpo))


def test_a_file_in_the_downloaders_cache_is_named_by_its_digest(tmp_path: Path) -> None:
    blob = tmp_path / "blobs" / hashlib.sha256(b"weights").hexdigest()
    blob.parent.mkdir()
    blob.write_bytes(b"weights")
    link = tmp_path / "snapshots" / "vae.safetensors"
    link.parent.mkdir()
    link.symlink_to(blob)

    assert weights.recorded(link) == blob.name
    assert weights.recorded(tmp_path / "snapshots" / "other") is None
