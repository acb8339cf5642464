"""The most important faults, on the other supported versions: Debian's Redis 7.0, Celery 5.6.3."""

from __future__ import annotations

import site
import subprocess
import sys
from collections.abc import Iterator

import pytest

from farm.process import embedded_redis
from tests.debian_redis import debian_redis
from tests.partitioned_farm import (
    calling,
    fill,
    kill,
    kill_a_worker,
    kill_all_connections,
    let_wires_die,
    lose_all_wake_ups,
    pause,
    spread_farm,
    works_again,
)

pytestmark = [pytest.mark.full, pytest.mark.timeout(400)]

#: Celery before the one that the farm is pinned to, and what it needs of its own.
OTHER_CELERY = ("celery==5.6.3", "kombu==5.6.2")
FAULTS = (kill_a_worker, lose_all_wake_ups, kill_all_connections, let_wires_die, pause, kill, fill)


@pytest.fixture(scope="module")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return a Python with the other Celery, and everything else as here."""
    folder = tmp_path_factory.mktemp("celery")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", folder], check=True)
    (packages,) = folder.glob("lib/python*/site-packages")
    pip = [sys.executable, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-deps"]
    subprocess.run([*pip, "--target", str(packages), *OTHER_CELERY], check=True)
    here = "".join(f"import site; site.addsitedir({path!r})\n" for path in site.getsitepackages())
    (packages / "here.pth").write_text(here)
    return str(folder / "bin" / "python")


@pytest.fixture(scope="module")
def debian_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with debian_redis(tmp_path_factory.mktemp("debian")) as program:
        yield program


@pytest.mark.parametrize(("server", "celery"), [("embedded", "5.6.3"), ("Redis 7.0", "5.7.0"), ("Redis 7.0", "5.6.3")])
def test_every_fault_is_survived(
    server: str, celery: str, request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = sys.executable
    if celery != "5.7.0":
        python = request.getfixturevalue("other_python")
    if server != "embedded":
        program = request.getfixturevalue("debian_server")
        monkeypatch.setattr(embedded_redis, "program", lambda: program)
    result = subprocess.run([python, "-c", "import celery; print(celery.__version__)"], capture_output=True, text=True)
    assert result.stdout.strip() == celery

    with spread_farm(python) as (farm, receiver):
        assert ("valkey_version" in farm.admin.info("server")) == (server == "embedded")
        with calling(farm, receiver):
            for fault in FAULTS:
                fault(farm)
                works_again(farm, receiver)
