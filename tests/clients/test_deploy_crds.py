"""The resources of deploy/ that Kubernetes itself does not know, against the models of those who define them."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest

from tests import javascript
from tests.unit.deploy.test_files import CUSTOM, OVERLAYS, kustomized

_PACKAGES = {"keda.sh": "keda", "monitoring.coreos.com": "prometheus-operator"}

_FREE = ("annotations", "labels", "metadata", "selector")

pytestmark = pytest.mark.full

_PROGRAM = """
import {{ {kind} }} from "@kubernetes-models/{package}/{version}/{kind}";
new {kind}({resource}).validate();
report("valid");
"""


def custom_resources(overlay: str) -> list[dict[str, Any]]:
    """Return the resources of an overlay that Kubernetes itself does not know."""
    return [one for one in kustomized(overlay) if one["apiVersion"].startswith(CUSTOM)]


def package_of(resource: dict[str, Any]) -> str:
    return _PACKAGES[resource["apiVersion"].partition("/")[0]]


def keys_of(value: object, *, free: bool = False) -> set[str]:
    """Return every key below `value`; keys are free in `_FREE`, and a `selector` is Kubernetes' own."""
    if isinstance(value, list):
        return {key for item in value for key in keys_of(item, free=free)}
    if not isinstance(value, dict):
        return set()
    own = set() if free else set(value)
    return own.union(*(keys_of(item, free=free or key in _FREE) for key, item in value.items()), set())


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_custom_resources_are_valid(overlay: str) -> None:
    for resource in custom_resources(overlay):
        program = _PROGRAM.format(
            kind=resource["kind"],
            package=package_of(resource),
            version=resource["apiVersion"],
            resource=json.dumps(resource),
        )
        assert javascript.run(program).report == "valid"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_no_key_of_a_custom_resource_is_misspelt(overlay: str) -> None:
    """A cluster drops keys that it does not know without a word."""
    for resource in custom_resources(overlay):
        types = javascript.folder(f"@kubernetes-models/{package_of(resource)}").rglob("*.d.ts")
        known = {key for file in types for key in re.findall(r"\"?(\w+)\"?\??:", file.read_text())}
        assert keys_of(resource["spec"]) <= known


def test_there_are_custom_resources() -> None:
    assert len([one for overlay in OVERLAYS for one in custom_resources(overlay)]) == 5
