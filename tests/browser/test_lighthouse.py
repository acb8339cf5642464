"""Lighthouse finds nothing to mend in the pages and the documentation: accessibility and best practices."""

from __future__ import annotations

import functools
from collections.abc import Iterator
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests import docs_site, javascript, lighthouse
from tests.farms import RunningFarm

#: The first one installs Lighthouse.
pytestmark = [pytest.mark.full, pytest.mark.timeout(javascript.INSTALL_SECONDS + 600)]

#: Swagger UI is published without source maps.
_NOT_OURS = {"/docs": {"Missing source maps for large first-party JavaScript"}}


class _Handler(SimpleHTTPRequestHandler):
    def log_message(self, *_: object) -> None:
        """Log nothing."""


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Yield the address of the documentation, built as a site."""
    handler = functools.partial(_Handler, directory=str(docs_site.build(tmp_path_factory.mktemp("docs"))))
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    thread.join()
    server.server_close()


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
