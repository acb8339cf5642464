"""`python -m tests.grafana.schema`: make `schema.json`, a strict JSON Schema of dashboards, from Grafana's own types.

A panel may leave out options, for which Grafana has defaults; so only the frame has required fields.
"""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

from tests import javascript
from tests.grafana import HOME

FILE = HOME / "schema.json"
_TYPES = HOME / "node_modules" / "@grafana" / "schema" / "dist" / "types" / "raw"
_GENERATOR = HOME / "node_modules" / "ts-json-schema-generator" / "bin" / "ts-json-schema-generator.js"
#: The types of panels that dashboards use, and which of their settings have types of their own.
_PANELS = {
    "timeseries": ("Options", "FieldConfig"),
    "stat": ("Options",),
    "gauge": ("Options",),
    "bargauge": ("Options",),
    "table": ("Options", "FieldConfig"),
}


def _schema(path: str, name: str) -> Any:
    file = _TYPES / path / "x" / "types.gen.d.ts"
    command = [javascript.NODE, str(_GENERATOR), "--path", str(file), "--type", name, "--no-type-check"]
    done = subprocess.run(command, cwd=HOME, check=True, capture_output=True, text=True)
    return json.loads(done.stdout)


def _without_descriptions(schema: Any, *, is_partial: bool) -> Any:
    """Return a schema without what says nothing about values, and, for a partial value, without what must be there."""
    dropped = {"description", "$comment"} | ({"required"} if is_partial else set())
    if isinstance(schema, list):
        return [_without_descriptions(part, is_partial=is_partial) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        name: _without_descriptions(part, is_partial=is_partial)
        for name, part in schema.items()
        if not (name in dropped and not isinstance(part, dict))
    }


def schemas() -> dict[str, Any]:
    """Return the schema of a dashboard, and those of the options of each type of panel."""
    javascript.install(HOME)
    frame = _without_descriptions(_schema("dashboard", "Dashboard"), is_partial=False)
    panels = {
        panel: {
            name: _without_descriptions(_schema(f"composable/{panel}/panelcfg", name), is_partial=True)
            for name in names
        }
        for panel, names in _PANELS.items()
    }
    return {"Dashboard": frame, **panels}


if __name__ == "__main__":
    Path(FILE).write_text(json.dumps(schemas(), indent=1, sort_keys=True) + "\n")
