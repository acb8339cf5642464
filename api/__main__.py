"""`python -m api`: the API process."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from api.server import serve
from farm.domain.errors import ConfigurationError, FarmError, with_detail
from farm.printable import say
from farm.process.child import EXIT_CONFIG
from farm.process.listen import ListenAddress
from farm.settings import load
from farm.telemetry.log import set_up_log


def main() -> None:
    """Run the API; an error is one line on stderr and an exit status."""
    parser = argparse.ArgumentParser(prog="farm api")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=8000)
    parser.add_argument("--data-dir", type=Path, default=Path(".farm"))
    parser.add_argument("--tls-cert", type=Path)
    parser.add_argument("--tls-key", type=Path)
    options = parser.parse_args()
    try:
        settings = load()
        set_up_log(settings.log, service="api")
        tls = (options.tls_cert, options.tls_key) if options.tls_cert else None
        serve(settings, ListenAddress(options.host, options.port, tls), data_dir=options.data_dir)
    except FarmError as error:
        say(f"farm api: {with_detail(error)}", file=sys.stderr)
        sys.exit(EXIT_CONFIG if isinstance(error, ConfigurationError) else 1)


if __name__ == "__main__":
    main()
