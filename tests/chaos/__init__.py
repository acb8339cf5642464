"""The chaos run: callers ask in every way there is while everything breaks, and a judge looks at what they were told.

`python -m tests.chaos` (`make chaos`) is the long form; `docs/chaos.md` says what is done and what is judged.
"""
