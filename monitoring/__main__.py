"""`python -m monitoring FOLDER`: write the files of deploy/."""

from __future__ import annotations

import sys
from pathlib import Path

from monitoring.files import files

if __name__ == "__main__":
    for name, text in files().items():
        path = Path(sys.argv[1]) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
