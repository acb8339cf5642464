"""Each file against the schema or the linter of its kind."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from farm.settings import env_example
from tests.unit.deploy import DEPLOY

BIN = Path(sys.executable).parent
OVERLAYS = sorted(path.parent.name for path in DEPLOY.glob("kustomize/overlays/*/kustomization.yaml"))
UNITS = sorted(DEPLOY.glob("systemd/*.service"))
#: API groups that Kubernetes itself does not know.
CUSTOM = ("keda.sh/", "monitoring.coreos.com/")
#: The exposure of a unit that `systemd-analyze security` may find, from 0 to 10 (worst).
MAX_EXPOSURE = 2.5


def run(*program: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(word) for word in program], capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.parametrize("file", sorted(DEPLOY.glob("docker/*.Dockerfile")), ids=lambda file: file.name)
def test_hadolint_finds_nothing_in_an_image(file: Path) -> None:
    done = run(BIN / "hadolint", file)

    assert (done.returncode, done.stdout) == (0, "")


def test_the_compose_file_follows_its_specification() -> None:
    done = run(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")

    assert done.returncode == 0, done.stdout


def kustomized(overlay: str) -> list[dict[str, Any]]:
    """Return the resources of an overlay."""
    kubectl = shutil.which("kubectl")
    assert kubectl, "kubectl is missing; run: sudo apt install kubernetes-client"
    done = run(kubectl, "kustomize", DEPLOY / "kustomize" / "overlays" / overlay)
    assert done.returncode == 0, done.stderr
    return list(yaml.safe_load_all(done.stdout))


@pytest.mark.full
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_an_overlay_follows_the_schema_of_kubernetes(overlay: str, tmp_path: Path) -> None:
    built = [
        one
        for one in kustomized(overlay)
        if "." not in one["apiVersion"].partition("/")[0] or "k8s.io" in one["apiVersion"]
    ]
    file = tmp_path / f"{overlay}.yaml"
    file.write_text(yaml.safe_dump_all(built))

    done = run(BIN / "kubernetes-validate", "--strict", "--quiet", "-k", "1.35", file)

    assert len(built) > 10
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.full
@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_systemd_takes_a_unit_and_finds_it_locked_up(unit: Path, tmp_path: Path) -> None:
    analyze = shutil.which("systemd-analyze")
    assert analyze, "systemd-analyze is missing; run: sudo apt install systemd"
    copy = tmp_path / unit.name.replace("@", "@0")
    # What the unit starts is not installed here.
    copy.write_text(re.sub(r"^ExecStart=.*$", "ExecStart=/bin/true", unit.read_text(), flags=re.MULTILINE))

    assert run(analyze, "verify", copy).stderr == ""
    exposure = re.search(r"exposure level for .*: ([\d.]+)", run(analyze, "security", "--offline=yes", copy).stdout)
    assert exposure is not None
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_the_example_of_the_settings_is_up_to_date() -> None:
    assert (DEPLOY / "env.example").read_text() == env_example(), "run `make docs`"
