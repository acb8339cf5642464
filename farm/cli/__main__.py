"""Run `farm` as `python -m farm.cli`."""

from farm.cli.main import main

main()
