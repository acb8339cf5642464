"""The documentation, built as a site."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

from tests import docs_index
from tests.docs_snippets import DOCS


def build(home: Path) -> Path:
    """Build the site in an empty folder, and return the folder of its pages."""
    shutil.copytree(DOCS, home / "docs")
    (home / "zensical.toml").write_text(docs_index.CONFIGURATION.read_text())
    subprocess.run([sys.executable, "-m", "zensical", "build", "--strict"], cwd=home, check=True, timeout=120)
    return home / "site"
