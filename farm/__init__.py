"""The core of the farm: what a job is, where it lives, what may happen to it."""

__version__ = "0.1.0"
