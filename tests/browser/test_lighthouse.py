"""Lighthouse finds nothing to mend in the pages and the documentation: accessibility and best practices."""

from __future__ import annotations

import pytest

from tests import javascript, lighthouse
from tests.farms import RunningFarm

#: The first one installs Lighthouse.
pytestmark = [pytest.mark.full, pytest.mark.timeout(javascript.INSTALL_SECONDS + 600)]

#: Swagger UI is published without source maps.
_NOT_OURS = {"/docs": {"Missing source maps for large first-party JavaScript"}}


@pytest.mark.parametrize("path", ["/", "/queue", "/docs"])
def test_the_pages_of_a_farm_have_no_findings(farm: RunningFarm, path: str) -> None:
    farm.wait_for_end(farm.submit(num_inference_steps=1))

    audits = lighthouse.audits(farm.url + path)

    assert len(audits) > 50
    found = lighthouse.findings(audits)
    assert {title: found[title] for title in found.keys() - _NOT_OURS.get(path, set())} == {}


@pytest.mark.parametrize("page", ["index", "start", "webhooks", "settings", "how-it-works", "coming-from-fal"])
def test_the_documentation_has_no_findings(site: str, page: str) -> None:
    assert lighthouse.findings(lighthouse.audits(f"{site}/{page}.html")) == {}
