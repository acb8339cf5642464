"""Tests of workers/checkers."""
