"""The way to a first image: settings, keys, folders, ports, an operator's own Redis, real weights."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import venv
from pathlib import Path

import pytest
import trustme
import urllib3
from PIL import Image
from safetensors.torch import load_file, save_file

from farm.process import child
from farm.process.child import EXIT_CONFIG
from miniature.scene import Group, Scene
from tests.docs_snippets import Snippet, executed_by, name_of
from tests.farms import RunningFarm, clean_environment, farm_command, free_port, own_redis, running_farm, wait_for
from tests.image_recognition import likeness

ROOT = Path(__file__).parents[2]
#: What each of the demo's prompts says, in their order; their seeds count up.
DEMO = [
    Scene((Group("star", "yellow", count=3),), "meadow", night=True),
    Scene((Group("heart", "red", size="large"),), "snow"),
    Scene((Group("circle", "blue", style="striped"),), "yellow"),
    Scene((Group("triangle", "orange", count=2),), "sea", place="left"),
]


def one_line(words: list[str], **environment: str) -> str:
    """Return the error of a command that must fail: one line, behind those that say what is being loaded."""
    done = farm_command(*words, environment=environment)
    assert done.returncode in (1, EXIT_CONFIG), (done.stdout, done.stderr)
    lines = [line for line in done.stderr.splitlines() if not line.startswith(("{", "worker "))]
    assert lines, done
    assert "Traceback" not in done.stderr
    return lines[0]


def test_an_unknown_setting_is_named_with_its_nearest(data_dir: Path) -> None:
    line = one_line(["up", "--data-dir", str(data_dir)], FARM_LEASE_SECOND="3")
    assert line == "farm: FARM_LEASE_SECOND is not a setting; did you mean FARM_LEASE_SECONDS?"


def test_an_unusable_value_is_named_with_what_is_allowed(data_dir: Path) -> None:
    line = one_line(["up", "--data-dir", str(data_dir)], FARM_PIPELINE="magic")
    assert line == "farm: FARM_PIPELINE=magic is not valid; allowed: flux or simulated"


def test_a_taken_port_is_named(simulated: RunningFarm, data_dir: Path) -> None:
    line = one_line(["up", "--port", str(simulated.port), "--data-dir", str(data_dir)])
    assert str(simulated.port) in line
    assert "--port" in line


def test_a_second_farm_on_the_same_folder_is_refused_with_the_firsts_pid(simulated: RunningFarm) -> None:
    line = one_line(["up", "--port", str(free_port()), "--data-dir", str(simulated.data_dir)])
    pid = (simulated.data_dir / "lock").read_text()
    assert f"pid {pid}" in line
    assert (Path("/proc") / pid).exists()


def test_keys_are_made_listed_and_revoked_without_a_farm(data_dir: Path) -> None:
    folder = ["--data-dir", str(data_dir)]
    key = farm_command("keys", "create", "alice", *folder).stdout.strip()

    assert key.startswith("farm_")
    listed = farm_command("keys", "list", *folder).stdout
    assert "alice" in listed
    assert key not in listed
    assert farm_command("keys", "revoke", "alice", *folder).stdout == "revoked: 1\n"
    assert one_line(["keys", "revoke", "alice", *folder]) == "farm: No key has the name or id 'alice'."


def test_callers_with_keys_see_only_their_own(data_dir: Path) -> None:
    """Keys made and revoked while the farm runs count at once; another's job looks like none."""
    with running_farm(data_dir, FARM_AUTH="keys") as farm:
        alice, bob, boss = (
            farm_command("keys", "create", *words, "--data-dir", str(data_dir)).stdout.strip()
            for words in (["alice"], ["bob"], ["boss", "--admin"])
        )
        body = {"model": "srpo", "prompt": "a fox", "num_inference_steps": 1}
        assert farm.call("POST", "/farm/v1/jobs", body).status == 401
        job_id = farm.call("POST", "/farm/v1/jobs", body, Authorization=f"Bearer {alice}").json["id"]

        def seen_by(key: str, path: str) -> int:
            return farm.call("GET", path, Authorization=f"Key {key}").status

        for path in (f"/farm/v1/jobs/{job_id}", f"/api/v3/predictions/{job_id}/result"):
            assert [seen_by(key, path) for key in (alice, bob, boss)] == [200, 404, 200]
        assert [seen_by(key, "/farm/v1/workers") for key in (alice, boss)] == [403, 200]
        farm_command("keys", "revoke", "alice", "--data-dir", str(data_dir))
        assert seen_by(alice, "/farm/v1/jobs") == 401


def test_an_api_beyond_loopback_does_not_start_without_keys(simulated: RunningFarm) -> None:
    words = ["api", "--host", "0.0.0.0", "--port", str(free_port()), "--data-dir", str(simulated.data_dir)]
    for environment, result in (({}, "farm keys create"), ({"FARM_AUTH": "off"}, "loopback only")):
        done = farm_command(*words, environment=environment)
        assert done.returncode == 78
        assert result in done.stderr


@pytest.mark.parametrize(
    ("options", "result"),
    [
        (["--appendonly", "no"], "append-only"),
        (["--appendonly", "yes", "--maxmemory-policy", "allkeys-lru"], "evicts"),
    ],
)
def test_a_redis_that_would_lose_jobs_is_refused(tmp_path: Path, options: list[str], result: str) -> None:
    with own_redis(tmp_path / "redis", *options) as url:
        done = farm_command("worker", environment={"FARM_REDIS_URL": url, "FARM_PIPELINE": "simulated"})
        assert done.returncode == 78
        assert result in done.stderr


def test_a_farm_of_single_processes_on_ones_own_redis(tmp_path: Path) -> None:
    """`farm api` and `farm worker` find each other through FARM_REDIS_URL alone."""
    with own_redis(tmp_path / "redis", "--appendonly", "yes") as url:
        environment = clean_environment() | {"FARM_REDIS_URL": url, "FARM_PIPELINE": "simulated"}
        port = free_port()
        folder = ["--data-dir", str(tmp_path / "data")]
        programs = (["api", "--port", str(port), *folder], ["worker", *folder])
        started = [
            subprocess.Popen([sys.executable, "-m", "farm.cli", *words], env=environment, stderr=subprocess.DEVNULL)
            for words in programs
        ]
        try:
            client = {"FARM_URL": f"http://127.0.0.1:{port}"}
            out = ["--steps", "2", "--out", str(tmp_path / "out")]
            wait_for(lambda: farm_command("render", "a fox", *out, environment=client).returncode == 0)
        finally:
            for process in started:
                process.terminate()
            assert [process.wait(30) for process in started] == [0, 0]


def simulated_farm(*program: str, cwd: Path | None = None) -> subprocess.Popen[str]:
    """Start a farm with simulated images by this program; its standard output says that it is ready."""
    return subprocess.Popen(
        child.command(*program),
        cwd=cwd,
        env=clean_environment() | {"FARM_PIPELINE": "simulated"},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )


def test_https(data_dir: Path, tmp_path: Path) -> None:
    """With a certificate the farm answers over HTTPS, and its URLs begin with https."""
    cert, key, authority = tmp_path / "cert.pem", tmp_path / "key.pem", trustme.CA()
    issued = authority.issue_cert("127.0.0.1")
    issued.private_key_pem.write_to_path(key)
    issued.cert_chain_pems[0].write_to_path(cert)
    authority.cert_pem.write_to_path(tmp_path / "ca.pem")
    port = free_port()
    words = ["up", "--port", str(port), "--data-dir", str(data_dir), "--tls-cert", str(cert), "--tls-key", str(key)]
    farm = simulated_farm(sys.executable, "-m", "farm.cli", *words)
    assert farm.stdout is not None
    try:
        assert farm.stdout.readline() == f"farm ready: https://127.0.0.1:{port}\n"
        with urllib3.PoolManager(ca_certs=str(tmp_path / "ca.pem")) as http:
            answer = http.request(
                "POST", f"https://127.0.0.1:{port}/farm/v1/jobs", json={"model": "srpo", "prompt": "x"}
            )
            assert answer.json()["urls"]["get"].startswith(f"https://127.0.0.1:{port}/")
    finally:
        farm.terminate()
        assert farm.wait(30) == 0
        farm.stdout.close()


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return small weights in the published formats: FLUX.1-dev's folder, and SRPO's file without configuration."""
    from workers.pipelines import miniature

    folder = tmp_path_factory.mktemp("checkpoints")
    flux = folder / "FLUX.1-dev"
    shutil.copytree(miniature.HOME, flux)
    tensors = load_file(flux / "transformer" / "diffusion_pytorch_model.safetensors")
    save_file({name: tensor * 1.1 for name, tensor in tensors.items()}, folder / "srpo.safetensors")
    (flux / "transformer" / "diffusion_pytorch_model.safetensors").unlink()
    return folder


def weights(checkpoints: Path) -> dict[str, str]:
    return {
        "FARM_PIPELINE": "flux",
        "FARM_FLUX_DIR": str(checkpoints / "FLUX.1-dev"),
        "FARM_SRPO_FILE": str(checkpoints / "srpo.safetensors"),
    }


def test_real_weights_need_their_licences_and_a_word_on_safety(checkpoints: Path, data_dir: Path) -> None:
    words = ["up", "--port", str(free_port()), "--data-dir", str(data_dir)]
    line = one_line(words, **weights(checkpoints), FARM_SAFETY="off")
    assert "FARM_ACCEPT_LICENSES" in line
    accepted = weights(checkpoints) | {"FARM_ACCEPT_LICENSES": "flux-1-dev-non-commercial,tencent-srpo"}
    assert "FARM_SAFETY" in one_line(words, **accepted)


@pytest.mark.full
def test_real_weights_render_unchecked_only_when_asked_to(checkpoints: Path, data_dir: Path) -> None:
    """With FARM_SAFETY=off a request with checking is rejected, in every dialect; one without is rendered."""
    accepted = {"FARM_ACCEPT_LICENSES": "flux-1-dev-non-commercial,tencent-srpo", "FARM_SAFETY": "off"}
    with running_farm(data_dir, **weights(checkpoints), **accepted) as farm:
        refused = farm.call("POST", "/farm/v1/jobs", {"model": "srpo", "prompt": "a fox"})
        assert refused.status == 422
        assert refused.json["errors"][0]["field"] == "enable_safety_checker"
        assert farm.call("POST", "/api/v3/wavespeed-ai/flux-srpo", {"prompt": "a fox"}).status == 400
        listed = farm.call("GET", "/v1/models").json["data"]
        assert [model["id"] for model in listed if "kontext" in model["id"]] == []
        client = {"FARM_URL": farm.url}
        out = str(data_dir / "out")
        rendered = farm_command("render", "a fox", "--steps", "2", "--out", out, environment=client, seconds=120)
        assert rendered.returncode == 0, rendered.stderr


@pytest.mark.full
@pytest.mark.timeout(600)
def test_the_api_runs_where_no_torch_is(tmp_path: Path, redis_dir: Path) -> None:
    """The API's set alone, installed into an empty environment, serves; torch and its kin are not there."""
    home = tmp_path / "venv"
    venv.create(home, with_pip=True)
    python = str(home / "bin" / "python")
    install = [python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", str(ROOT)]
    subprocess.run(install, check=True, capture_output=True, timeout=500)
    engines = ("torch", "diffusers", "transformers", "numpy")
    look = f"import importlib.util as u; print([name for name in {engines} if u.find_spec(name)])"
    assert subprocess.run([python, "-c", look], capture_output=True, text=True, check=True).stdout == "[]\n"

    port = free_port()
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    program = [str(home / "bin" / "farm"), "api", "--port", str(port), "--data-dir", str(redis_dir)]
    api = subprocess.Popen(program, env=environment, cwd=tmp_path, stderr=subprocess.DEVNULL)
    try:
        wait_for(lambda: answers(port), what="the API")
    finally:
        api.terminate()
        assert api.wait(30) == 0


def answers(port: int) -> bool:
    try:
        return urllib3.request("GET", f"http://127.0.0.1:{port}/readyz", retries=False).status == 200
    except urllib3.exceptions.HTTPError:
        return False


@pytest.mark.timeout(300)
@pytest.mark.full
def test_the_demos_images_show_the_shapes_that_their_prompts_name(tmp_path: Path) -> None:
    done = farm_command("demo", "--out", str(tmp_path), seconds=240)

    assert done.returncode == 0, done.stderr
    files = sorted(tmp_path.glob("*.jpeg"), key=lambda path: int(path.stem.rsplit("-", 1)[1]))
    assert all(str(file) in done.stdout for file in files)
    page = (tmp_path / "index.html").read_text()
    assert (tmp_path / "index.html").as_uri() in done.stdout
    assert all(f'src="{file.name}"' in page for file in files)
    assert [likeness(Image.open(file).convert("RGB"), scene) for file, scene in zip(files, DEMO, strict=True)] == DEMO


def test_own_redis_version_floor() -> None:
    """An old server is named with the version that is needed."""
    from farm.jobstore import connection

    assert "7.0" in str(connection.version_problem({"redis_version": "6.2.14"}))
    assert connection.version_problem({"redis_version": "7.0.15"}) is None
    assert "7.2" in str(connection.version_problem({"redis_version": "7.2.4", "valkey_version": "7.1.0"}))


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """Return a folder with every file that `make` reads before it sets anything up."""
    for name in ("Makefile", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path / name)
    return tmp_path


def make(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in clean_environment().items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["make", "--silent", *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_a_broken_venv_is_named_with_its_mend(clone: Path) -> None:
    (clone / ".venv" / "bin").mkdir(parents=True)
    done = make(clone, "demo")
    assert done.returncode != 0
    assert done.stdout == ".venv is broken; run: rm -rf .venv, then this command again\n"


def test_a_missing_python_is_named_with_the_command_that_brings_it(clone: Path) -> None:
    done = make(clone, "demo", "PYTHON=python-that-is-not-there")
    assert done.returncode != 0
    assert done.stdout.count("\n") == 1
    assert "apt install python3" in done.stdout


def test_a_missing_luacheck_is_named_with_the_command_that_brings_it(clone: Path) -> None:
    done = make(clone, "luacheck", "LUACHECK=luacheck-that-is-not-there", "AS_ROOT=")
    assert done.returncode != 0
    assert done.stdout == "luacheck is missing; run: sudo apt install lua-check\n"


def test_make_help_lists_every_target(clone: Path) -> None:
    listed = [line.split()[0] for line in make(clone, "help").stdout.splitlines()]
    assert {"demo", "up", "test", "test-full", "check", "bench", "bench-gpu", "help"} <= set(listed)


@pytest.mark.full
@pytest.mark.parametrize("snippet", executed_by("test_make_up_starts_a_farm"), ids=name_of)
def test_make_up_starts_a_farm(clone: Path, snippet: Snippet) -> None:
    """Beside a set-up that is done; as printed, but for the port."""
    (clone / ".venv").symlink_to(sys.prefix)
    line, _, printed = snippet.code.removeprefix("$ ").partition("\n")
    port = free_port()
    farm = simulated_farm("bash", "-c", f"exec env {line} PORT={port} --old-file=pyproject.toml", cwd=clone)
    assert farm.stdout is not None
    try:
        ready = farm.stdout.readline()
        assert ready == f"farm ready: http://127.0.0.1:{port}\n"
        assert printed in ("", ready.replace(str(port), "8000"))
    finally:
        farm.terminate()
        assert farm.wait(60) == -signal.SIGTERM  # that is how make ends, once the farm has
        farm.stdout.close()


def test_keys_without_their_redis_are_one_line(data_dir: Path) -> None:
    line = one_line(["keys", "list", "--data-dir", str(data_dir)], FARM_REDIS_URL="unix:///nothing/here.sock")
    assert line.startswith("farm: The job store (Redis) does not answer")
