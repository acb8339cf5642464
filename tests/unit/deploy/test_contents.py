"""Contents of the deployment files: settings, commands, probes and mounted files are those of the farm."""

from __future__ import annotations

import re
import shutil
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, get_args, get_type_hints

import pytest
import typer
import yaml

from farm.cli.main import app
from farm.dialects.answers.native import FarmQueue
from farm.settings import Settings
from monitoring.alerts import Severity
from monitoring.files import groups
from tests.unit.deploy import DEPLOY
from tests.unit.deploy.test_files import OVERLAYS, UNITS, kustomized, run

_SETTINGS = {f"FARM_{name.upper()}" for name in Settings.model_fields}
_COMMANDS = set(typer.main.get_command(app).commands)  # type: ignore[attr-defined]
#: A worker's drain, and what its process may take beyond it.
_GRACE_SECONDS = Settings().grace_seconds


def compose() -> dict[str, Any]:
    found: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
    return found


def pods(overlay: str) -> Iterator[dict[str, Any]]:
    """Yield the pods of an overlay's workloads."""
    for one in kustomized(overlay):
        if one["kind"] in ("Deployment", "StatefulSet", "Job"):
            yield one["spec"]["template"]["spec"]


def containers(overlay: str) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield each container with its pod."""
    for pod in pods(overlay):
        for container in pod["containers"]:
            yield pod, container


def test_every_setting_in_every_file_is_one_of_the_farms() -> None:
    files = [file for file in DEPLOY.rglob("*") if file.is_file()]
    named = {(file.name, name) for file in files for name in re.findall(r"\bFARM_[A-Z0-9_]+\b", file.read_text())}

    assert len(named) > 60
    assert {(file, name) for file, name in named if name not in _SETTINGS} == set()


def test_every_file_that_a_service_mounts_is_there() -> None:
    mounts = [str(volume) for service in compose()["services"].values() for volume in service.get("volumes", [])]
    files = [mount.split(":")[0] for mount in mounts if mount.startswith("./")]

    assert len(files) >= 4
    assert [file for file in files if not (DEPLOY / file).exists()] == []


def test_every_command_is_one_of_the_farms() -> None:
    services = [service for service in compose()["services"].values() if str(service["image"]).startswith("srpo-farm")]
    started = [service["command"][0] for service in services if "command" in service]
    started += [unit.read_text().partition("/bin/farm ")[2].split()[0] for unit in UNITS]
    manifests = [file.read_text() for file in DEPLOY.glob("kustomize/base/*.yaml")]
    started += re.findall(r"^ +args: \[(\w+)", "\n".join(manifests), re.MULTILINE)
    started += re.findall(r'^CMD \["([a-z]+)"', "\n".join(file.read_text() for file in DEPLOY.glob("docker/*")), re.M)

    assert len(started) > 9
    assert set(started) <= _COMMANDS


@pytest.mark.full
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_probe_asks_a_route_that_is_there(overlay: str, page_routes: set[str]) -> None:
    ours = [container for _, container in containers(overlay) if "srpo-farm" in container["image"]]
    probes = [container[name] for container in ours for name in container if name.endswith("Probe")]
    paths = {probe["httpGet"]["path"] for probe in probes}

    assert paths == {"/healthz", "/readyz", "/metrics"}
    assert paths <= page_routes


@pytest.mark.full
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_container_has_privileges_or_a_file_system_that_it_could_write(overlay: str) -> None:
    for pod, container in containers(overlay):
        context = container["securityContext"]
        assert pod["securityContext"]["runAsNonRoot"], container["name"]
        assert context["readOnlyRootFilesystem"]
        assert not context["allowPrivilegeEscalation"]
        assert context["capabilities"] == {"drop": ["ALL"]}
        mounted = {volume["name"] for volume in container.get("volumeMounts", [])}
        claimed = {volume["name"] for volume in pod.get("volumes", [])}
        assert mounted <= claimed | {"data"}


@pytest.mark.full
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_a_pod_may_drain_before_it_is_killed(overlay: str) -> None:
    drains = {"worker", "webhooks"}
    graces = {
        container["name"]: pod["terminationGracePeriodSeconds"]
        for pod, container in containers(overlay)
        if container["name"] in drains
    }

    assert set(graces) == drains
    assert min(graces.values()) > _GRACE_SECONDS


@pytest.mark.parametrize(("image", "extras"), [("api", {"otel"}), ("worker", {"nvidia", "otel", "worker"})])
def test_an_image_has_the_extras_that_settings_and_dashboards_need(image: str, extras: set[str]) -> None:
    (installed,) = re.findall(r"pip install .* '\.\[(.+)\]'", (DEPLOY / "docker" / f"{image}.Dockerfile").read_text())
    declared = tomllib.loads((DEPLOY.parent / "pyproject.toml").read_text())["project"]["optional-dependencies"]

    assert set(installed.split(",")) == extras
    assert extras <= set(declared)


def test_a_service_may_drain_before_it_is_killed() -> None:
    services = compose()["services"]

    for name in ("worker", "worker-cpu", "webhooks"):
        assert int(services[name]["stop_grace_period"].rstrip("s")) > _GRACE_SECONDS


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.name)
def test_a_unit_is_restarted_for_as_long_as_redis_is_away(unit: Path) -> None:
    text = unit.read_text()

    assert re.search(r"^StartLimitIntervalSec=0$", text.partition("[Service]")[0], re.MULTILINE)
    assert re.search(r"^RestartSec=2$", text, re.MULTILINE)


@pytest.mark.parametrize("name", ["api", "webhooks", "worker", "worker-cpu", "valkey", "s3", "proxy", "prometheus"])
def test_a_service_has_no_privileges_and_a_read_only_file_system(name: str) -> None:
    service = compose()["services"][name]

    assert (service["read_only"], service["cap_drop"], service["tmpfs"]) == (True, ["ALL"], ["/tmp"])


@pytest.mark.full
@pytest.mark.parametrize("overlay", OVERLAYS)
def test_workers_reach_the_internet_but_no_private_network(overlay: str) -> None:
    (policy,) = [
        one for one in kustomized(overlay) if one["kind"] == "NetworkPolicy" and one["metadata"]["name"] == "default"
    ]
    blocks = [peer["ipBlock"] for rule in policy["spec"]["egress"] for peer in rule.get("to", []) if "ipBlock" in peer]

    excepted = {network for block in blocks for network in block["except"]}
    if overlay != "cpu-demo":  # its pods talk to each other only
        assert {"10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "169.254.0.0/16", "fc00::/7"} <= excepted


def test_the_proxy_writes_to_its_tmp_only_and_follows_an_api_that_is_replaced() -> None:
    """The image's own configuration, which ours replaces, also has a pid file that its user may write."""
    configuration = (DEPLOY / "nginx" / "nginx.conf").read_text()

    written = re.findall(r"^ *(pid|\w+_temp_path) (\S+);", configuration, re.MULTILINE)
    assert "pid" in dict(written)
    assert {path.split("/")[1] for _, path in written} == {"tmp"}
    assert re.search(r"server api:8000 resolve\b", configuration)


def test_every_volume_of_a_service_belongs_to_its_user() -> None:
    """A volume takes its owner from the image's folder; an image that starts as root could not give itself another."""
    image = (DEPLOY / "docker" / "worker.Dockerfile").read_text()

    assert re.search(r"^USER 10001:10001$", image, re.MULTILINE)
    assert "install -d -o 10001 -g 10001 /cache" in image
    assert {compose()["services"][name]["user"].partition(":")[0] for name in ("s3", "valkey")} == {"1000", "999"}


@pytest.mark.full
def test_an_alert_wakes_a_person_or_waits_by_its_severity() -> None:
    configuration = DEPLOY / "alertmanager" / "alertmanager.yml"
    amtool = shutil.which("amtool")
    assert amtool, "amtool is missing; run: sudo apt install prometheus-alertmanager"

    for severity in get_args(Severity):
        routed = run(amtool, "config", "routes", "test", f"--config.file={configuration}", f"severity={severity}")
        assert (routed.returncode, routed.stdout.strip()) == (0, severity)


@pytest.mark.full
def test_the_operators_prometheus_has_the_job_of_the_alerts_their_rules_and_the_dashboards() -> None:
    found = {(one["kind"], one["metadata"]["name"]): one for one in kustomized("monitoring")}
    monitor, service = found["ServiceMonitor", "api"], found["Service", "api"]
    dashboards = found["ConfigMap", "srpo-farm-dashboards"]["data"]

    assert service["metadata"]["labels"][monitor["spec"]["jobLabel"]] == "srpo-farm"
    assert {group["name"] for group in found["PrometheusRule", "srpo-farm"]["spec"]["groups"]} == {
        group["name"] for group in groups()
    }
    assert set(dashboards) == {file.name for file in DEPLOY.glob("grafana/dashboards/*.json")}


@pytest.mark.full
def test_the_scaler_reads_a_field_of_the_queue() -> None:
    (scaler,) = [one for one in kustomized("keda") if one["kind"] == "ScaledObject"]
    (trigger,) = scaler["spec"]["triggers"]

    assert trigger["metadata"]["url"].endswith("/farm/v1/queue")
    assert get_type_hints(FarmQueue)[trigger["metadata"]["valueLocation"]] is float
    assert scaler["spec"]["minReplicaCount"] == 0
    worker = [one for one in kustomized("keda") if one["kind"] == "Deployment" and one["metadata"]["name"] == "worker"]
    assert "replicas" not in worker[0]["spec"]


@pytest.fixture(scope="module")
def page_routes() -> set[str]:
    """Return the paths that /openapi.json describes."""
    from api.openapi.document import document

    return set(document("/")["paths"])
