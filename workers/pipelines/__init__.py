"""Pipelines: they render requests as images. The only package that imports torch and diffusers."""
