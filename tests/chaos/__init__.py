"""The chaos run: callers submit in every way while everything breaks, and a judge checks what they were answered.

`python -m tests.chaos` (`make chaos`) is the long form; `docs/chaos.md` says what is done and what is judged.
"""
