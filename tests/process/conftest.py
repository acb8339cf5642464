"""Farms that several tests share, because starting one takes seconds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import trustme

from tests.farms import Certificate, RunningFarm, running_farm


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningFarm]:
    """A quick farm with one simulated worker."""
    with running_farm(tmp_path_factory.mktemp("simulated") / "data", FARM_SIMULATED_STEP_MS="5") as farm:
        yield farm


@pytest.fixture
def data_dir(tmp_path: Path) -> Path:
    return tmp_path / "data"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Certificate:
    """What a farm over HTTPS shows."""
    folder, authority = tmp_path_factory.mktemp("tls"), trustme.CA()
    issued = authority.issue_cert("127.0.0.1", "localhost")
    certificate = Certificate(folder / "chain.pem", folder / "key.pem", folder / "authority.pem")
    for number, blob in enumerate(issued.cert_chain_pems):
        blob.write_to_path(certificate.chain, append=number > 0)
    issued.private_key_pem.write_to_path(certificate.key)
    authority.cert_pem.write_to_path(certificate.authority)
    return certificate
