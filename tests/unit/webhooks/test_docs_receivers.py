"""The receivers of docs/webhooks.md in other languages take what the farm signs, and nothing else."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from farm.webhooks import signing
from tests.docs_snippets import executed_by
from tests.javascript import NODE

BODY = '{"type":"job.completed","prompt":"füchschen 🦊"}'
SECRET = "whsec_" + base64.b64encode(bytes(range(32))).decode()

_JAVASCRIPT = """
import { readFileSync } from "node:fs";
const cases = JSON.parse(readFileSync(0, "utf8"));
console.log(JSON.stringify(cases.map(([secret, headers, body]) => isFromTheFarm(secret, headers, body))));
"""
_GO = """
package main

import ("encoding/json"; "net/http"; "os")

func main() {
	var cases [][]json.RawMessage
	json.NewDecoder(os.Stdin).Decode(&cases)
	answers := []bool{}
	for _, one := range cases {
		var secret, body string
		sent, headers := map[string]string{}, http.Header{}
		json.Unmarshal(one[0], &secret)
		json.Unmarshal(one[1], &sent)
		json.Unmarshal(one[2], &body)
		for name, value := range sent {
			headers.Set(name, value)
		}
		answers = append(answers, isFromTheFarm(secret, headers, []byte(body)))
	}
	json.NewEncoder(os.Stdout).Encode(answers)
}
"""


def receiver(language: str) -> str:
    """Return the receiver of the page in a language."""
    (snippet,) = executed_by("test_a_receiver_takes_what_is_signed_and_nothing_else", language)
    return snippet.code


def javascript(folder: Path) -> Sequence[str | Path]:
    (folder / "receiver.mjs").write_text(receiver("js") + _JAVASCRIPT)
    return [NODE, folder / "receiver.mjs"]


def go(folder: Path) -> Sequence[str | Path]:
    compiler = shutil.which("go")
    if compiler is None:
        pytest.skip("Go is not installed")
    (folder / "receiver.go").write_text(receiver("go"))
    (folder / "main.go").write_text(_GO)
    return [compiler, "run", folder / "receiver.go", folder / "main.go"]


@pytest.mark.parametrize("program", [javascript, go])
def test_a_receiver_takes_what_is_signed_and_nothing_else(
    program: Callable[[Path], Sequence[str | Path]], tmp_path: Path
) -> None:
    def signed(secret: str = SECRET, age: int = 0) -> dict[str, str]:
        now = int(time.time())
        return signing.standard(secret, message_id="evt_1", timestamp=now - age, body=BODY.encode())

    genuine = signed()
    cases = {
        "genuine": ((SECRET, genuine, BODY), True),
        "several signatures": (
            (SECRET, genuine | {"webhook-signature": f"v1,AAAA {genuine['webhook-signature']}"}, BODY),
            True,
        ),
        "another body": ((SECRET, genuine, BODY + " "), False),
        "another id": ((SECRET, genuine | {"webhook-id": "evt_2"}, BODY), False),
        "another secret": ((SECRET, signed(signing.new_secret()), BODY), False),
        "no time": ((SECRET, genuine | {"webhook-timestamp": "now"}, BODY), False),
        "old": ((SECRET, signed(age=400), BODY), False),
        "ahead": ((SECRET, signed(age=-400), BODY), False),
    }
    done = subprocess.run(
        program(tmp_path), input=json.dumps([given for given, _ in cases.values()]), capture_output=True, text=True,
        env=os.environ | {"GOCACHE": str(tmp_path / "go"), "GO111MODULE": "off"}, timeout=120, check=False,
    )  # fmt: skip

    assert done.returncode == 0, done.stderr
    assert dict(zip(cases, json.loads(done.stdout), strict=True)) == {name: ok for name, (_, ok) in cases.items()}
