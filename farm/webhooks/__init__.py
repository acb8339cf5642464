"""Calling back: what is said, how it is signed, when it is tried again."""
