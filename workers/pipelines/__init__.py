"""Pipelines: they render requests as images. Only they and the checkers import torch and diffusers."""
